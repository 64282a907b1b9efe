#include "nibble/eval/template.h"

#include <algorithm>

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

}  // namespace nibble
