#include "nibble/data/bpe/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "nibble/data/utf8.h"

namespace nibble::bpe {

namespace {

bool is_space(char32_t c) {  // Unicode's White_Space
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// What words are made of: letters, marks, decimal digits, connectors, joiners (Unicode Technical Standard 18, \w).
bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
  }
  // Joiners, and the symbols that are Alphabetic: circled and squared letters.
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool is_single_word(std::string_view text, std::size_t begin, std::size_t end) {
  const std::string_view before = text.substr(0, begin);
  if (!before.empty() && is_word(utf8_code_point(before.substr(last_character(before))))) return false;
  return end == text.size() || !is_word(utf8_code_point(text.substr(end)));
}

/// How many bytes of white space `text` ends with.
std::size_t trailing_space(std::string_view text) {
  const std::size_t size = text.size();
  while (!text.empty() && is_space(utf8_code_point(text.substr(last_character(text))))) {
    text = text.substr(0, last_character(text));
  }
  return size - text.size();
}

std::size_t leading_space(std::string_view text) {
  const std::size_t size = text.size();
  while (!text.empty() && is_space(utf8_code_point(text))) text.remove_prefix(utf8_length(text[0]));
  return size - text.size();
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (const AddedToken& token : tokens_) {
    if (token.content.empty()) continue;
    by_content_.emplace(token.content, &token);
    auto& lengths = lengths_[static_cast<unsigned char>(token.content[0])];
    if (std::find(lengths.begin(), lengths.end(), token.content.size()) == lengths.end()) {
      lengths.push_back(token.content.size());
      std::sort(lengths.begin(), lengths.end(), std::greater<>());
    }
  }
}

const AddedToken* AddedTokens::longest_at(std::string_view text) const {
  for (const std::size_t length : lengths_[static_cast<unsigned char>(text[0])]) {
    if (length > text.size()) continue;
    const auto it = by_content_.find(text.substr(0, length));
    if (it != by_content_.end()) return it->second;
  }
  return nullptr;
}

void AddedTokens::split(std::string_view text, const Receiver& receive) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = longest_at(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->content.size();
    at = end;
    if (token->single_word && !is_single_word(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(begin - trailing_space(text.substr(0, begin)), done);
    if (token->rstrip) end += leading_space(text.substr(end));
    if (done < begin) receive(text.substr(done, begin - done), -1);
    receive(text.substr(begin, end - begin), token->id);
    done = end;
  }
  if (done < text.size()) receive(text.substr(done), -1);
}

}  // namespace nibble::bpe
