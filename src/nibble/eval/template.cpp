#include "nibble/eval/template.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "nibble/io/format.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t at = std::min(text.find(separator), text.size());
    parts.push_back(apply_text_rule(TextRule::Strip, text.substr(0, at)));
    if (at == text.size()) return parts;
    text.remove_prefix(at + 1);
  }
}

const nlohmann::json& field(const nlohmann::json& row, const std::vector<std::string>& path, const std::string& where) {
  const nlohmann::json* node = &row;
  std::string reached;
  for (const std::string& key : path) {
    reached += (reached.empty() ? "" : ".") + key;
    const nlohmann::json* next = nullptr;
    if (node->is_object() && node->contains(key)) next = &node->at(key);
    std::size_t index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    const bool number = error == std::errc() && end == key.data() + key.size();
    if (node->is_array() && number && index < node->size()) next = &node->at(index);
    if (next == nullptr) user_error("{}: this row has no field '{}'", where, reached);
    node = next;
  }
  return *node;
}

std::string text_of(const nlohmann::json& value, const std::vector<TextRule>& rules, const std::string& name,
                    const std::string& where) {
  if (!value.is_string() && !value.is_number() && !value.is_boolean()) {
    user_error("{}: the field '{}' holds {}, must be a text or a number", where, name, value.type_name());
  }
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  for (const TextRule rule : rules) {
    try {
      text = apply_text_rule(rule, text);
    } catch (const UserError& e) {
      user_error("{}: field '{}': {}", where, name, e.what());
    }
  }
  return text;
}

std::string name_of(const std::vector<std::string>& path) { return join_names(path, "."); }

}  // namespace

Template::Template(std::string_view text, const std::string& where) {
  while (!text.empty()) {
    const std::size_t open = text.find("{{");
    if (open == std::string_view::npos) {
      pieces_.push_back({std::string(text), {}, {}});
      return;
    }
    const std::size_t close = text.find("}}", open);
    if (close == std::string_view::npos) {
      user_error("{}: '{{{{' without '}}}}' in the template '{}'", where, text.substr(open));
    }
    const std::vector<std::string> words = split(text.substr(open + 2, close - open - 2), '|');
    Piece piece{std::string(text.substr(0, open)), split(words.front(), '.'), {}};
    if (std::find(piece.path.begin(), piece.path.end(), "") != piece.path.end()) {
      user_error("{}: the placeholder '{}' names no field", where, text.substr(open, close + 2 - open));
    }
    for (std::size_t i = 1; i < words.size(); ++i) piece.rules.push_back(text_rule(words[i], where));
    pieces_.push_back(std::move(piece));
    text.remove_prefix(close + 2);
  }
}

std::string Template::render(const nlohmann::json& row, const std::string& where) const {
  std::string out;
  for (const Piece& piece : pieces_) {
    out += piece.literal;
    if (!piece.path.empty()) out += text_of(field(row, piece.path, where), piece.rules, name_of(piece.path), where);
  }
  return out;
}

std::vector<std::string> Template::render_all(const nlohmann::json& row, const std::string& where) const {
  if (pieces_.size() != 1 || !pieces_[0].literal.empty() || pieces_[0].path.empty()) return {render(row, where)};
  const nlohmann::json& value = field(row, pieces_[0].path, where);
  if (!value.is_array()) return {render(row, where)};
  std::vector<std::string> all;
  for (const nlohmann::json& element : value) {
    all.push_back(text_of(element, pieces_[0].rules, name_of(pieces_[0].path), where));
  }
  return all;
}

}  // namespace nibble
