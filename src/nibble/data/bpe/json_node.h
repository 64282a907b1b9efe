// A value of a JSON file with its place there, for readers whose every complaint is a UserError that names the place.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/tensor/error.h"

namespace nibble::bpe {

class JsonNode {
 public:
  /// `place` begins with the file's name.
  JsonNode(simdjson::dom::element value, std::string place) : value_(value), place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  bool is_text() const { return value_.is_string(); }

  bool has(std::string_view key) const { return value_.at_key(key).error() == simdjson::SUCCESS; }
  /// A member of an object; nothing where it is absent or null.
  std::optional<JsonNode> find(std::string_view key) const {
    simdjson::dom::element member;
    const auto error = value_.at_key(key).get(member);
    if (error == simdjson::INCORRECT_TYPE) user_error("{}: not an object", place_);
    if (error != simdjson::SUCCESS || member.is_null()) return std::nullopt;
    return JsonNode(member, place_ + "." + std::string(key));
  }
  JsonNode at(std::string_view key) const {
    const auto member = find(key);
    if (!member) user_error("{}: '{}' is missing", place_, key);
    return *member;
  }
  std::string_view text() const { return get<std::string_view>("a text"); }
  double number() const { return get<double>("a number"); }
  std::int64_t integer() const { return get<std::int64_t>("an integer"); }
  std::string_view text_at(std::string_view key) const { return at(key).text(); }
  bool flag_at(std::string_view key, bool otherwise) const {
    const auto member = find(key);
    return member ? member->get<bool>("true or false") : otherwise;
  }
  simdjson::dom::object members() const { return get<simdjson::dom::object>("an object"); }
  simdjson::dom::array elements() const { return get<simdjson::dom::array>("a list"); }
  std::vector<JsonNode> items() const {
    std::vector<JsonNode> nodes;
    for (const simdjson::dom::element item : elements()) {
      nodes.emplace_back(item, place_ + "[" + std::to_string(nodes.size()) + "]");
    }
    return nodes;
  }

 private:
  template <class T>
  T get(std::string_view what) const {
    T result;
    if (value_.get(result) != simdjson::SUCCESS) user_error("{}: not {}", place_, what);
    return result;
  }
  simdjson::dom::element value_;
  std::string place_;
};

}  // namespace nibble::bpe
