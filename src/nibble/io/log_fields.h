// Fields of the JSON logs that runs and comparisons leave, where a member may be missing or null but not of another
// type. Includes nlohmann/json.hpp, so this header is for .cpp files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "nibble/io/run_log.h"
#include "nibble/tensor/error.h"

namespace nibble {

using OrderedJson = nlohmann::ordered_json;

/// A value of a wrong type is an error of the file, which the caller reports with its place.
struct BadField : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void bad_field(const char* key, const char* wanted) {
  throw BadField(fmt::format("'{}' is not {}", key, wanted));
}

/// A number; NaN where it is missing, `if_null` where it is null.
inline double number_field(const OrderedJson& object, const char* key, double if_null = kNotLogged) {
  const auto it = object.find(key);
  if (it == object.end()) return kNotLogged;
  if (it->is_null()) return if_null;
  if (!it->is_number()) bad_field(key, "a number");
  return it->get<double>();
}

/// An integer; 0 where it is missing or null.
inline std::int64_t integer_field(const OrderedJson& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return 0;
  if (!it->is_number_integer()) bad_field(key, "an integer");
  return it->get<std::int64_t>();
}

/// Text; empty where it is missing or null.
inline std::string text_field(const OrderedJson& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return {};
  if (!it->is_string()) bad_field(key, "a string");
  return it->get<std::string>();
}

/// A member that must be an object (or array) when it is there; null pointer when it is not.
inline const OrderedJson* child_field(const OrderedJson& object, const char* key, OrderedJson::value_t kind) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return nullptr;
  if (it->type() != kind) bad_field(key, kind == OrderedJson::value_t::array ? "an array" : "an object");
  return &*it;
}

/// Reads a file whose top level is an object. UserError that names the file otherwise.
OrderedJson read_json_object(const std::filesystem::path& path);

/// {"fprop.x": {"snr_db": ..., ...}, ...}
Quality parse_quality(const OrderedJson& object);

}  // namespace nibble
