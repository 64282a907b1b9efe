#include "nibble/eval/render.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "nibble/io/format.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

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

std::string render(const Template& text, const nlohmann::json& row, const std::string& where) {
  std::string out;
  for (const Template::Piece& piece : text.pieces()) {
    out += piece.literal;
    if (!piece.path.empty()) out += text_of(field(row, piece.path, where), piece.rules, name_of(piece.path), where);
  }
  return out;
}

std::vector<std::string> render_all(const Template& text, const nlohmann::json& row, const std::string& where) {
  const std::vector<Template::Piece>& pieces = text.pieces();
  if (pieces.size() != 1 || !pieces[0].literal.empty() || pieces[0].path.empty()) return {render(text, row, where)};
  const nlohmann::json& value = field(row, pieces[0].path, where);
  if (!value.is_array()) return {render(text, row, where)};
  std::vector<std::string> all;
  for (const nlohmann::json& element : value) {
    all.push_back(text_of(element, pieces[0].rules, name_of(pieces[0].path), where));
  }
  return all;
}

}  // namespace nibble
