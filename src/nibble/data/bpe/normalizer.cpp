#include "nibble/data/bpe/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "nibble/data/bpe/unnormalized.h"
#include "nibble/data/utf8.h"
#include "nibble/tensor/error.h"

namespace nibble::bpe {

namespace {

/// Whether no byte is above `last`.
bool all_at_most(std::string_view text, unsigned last) {
  return std::all_of(text.begin(), text.end(), [&](char c) { return static_cast<unsigned char>(c) <= last; });
}

/// Below U+0300, whose first byte is CC, nothing composes; below U+0080 nothing decomposes.
bool is_normal(std::string_view text, UnicodeForm form) {
  return all_at_most(text, form == UnicodeForm::NFC ? 0xCB : 0x7F);
}

void append_normalized(std::string_view text, UnicodeForm form, std::string& result) {
  if (text.empty()) return;
  int options = UTF8PROC_STABLE;
  options |= form == UnicodeForm::NFC || form == UnicodeForm::NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::NFKC || form == UnicodeForm::NFKD) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* out = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &out, static_cast<utf8proc_option_t>(options));
  require(size >= 0, "utf8proc cannot normalise: {}", utf8proc_errmsg(size));
  result.append(reinterpret_cast<const char*>(out), static_cast<std::size_t>(size));
  std::free(out);  // NOLINT: utf8proc allocates with malloc
}

std::string normalized(std::string_view text, UnicodeForm form) {
  std::string result;
  result.reserve(text.size());
  std::size_t done = 0;
  for (std::size_t at = 0, length = 0; at < text.size(); at += length) {
    length = utf8_length(text[at]);
    if (length == 1 || !is_left_unnormalized(utf8_code_point(text.substr(at)))) continue;
    append_normalized(text.substr(done, at - done), form, result);
    result.append(text.substr(at, length));
    done = at + length;
  }
  append_normalized(text.substr(done), form, result);
  return result;
}

std::string lowercased(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (; !text.empty(); text.remove_prefix(utf8_length(text[0]))) {
    const char32_t c = utf8_code_point(text);
    append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
    if (c == 0x130) append_utf8(0x307, out);  // the only letter whose small form is two characters
  }
  return out;
}

void check_size(std::size_t bytes, std::size_t most) {
  if (bytes > most) user_error("the replacements of this tokenizer.json make more than {} bytes of a text", most);
}

}  // namespace

std::string replace_matches(const Replace& replace, std::string_view text, std::size_t most) {
  Regex::Matcher matcher(replace.pattern);
  std::string out;
  std::size_t at = 0;
  for (std::size_t begin = 0, end = 0; matcher.find(text, at, begin, end); at = end) {
    out.append(text, at, begin - at).append(replace.content);
    check_size(out.size(), most);
  }
  check_size(out.size() + text.size() - at, most);
  return out.append(text, at);
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  const std::size_t most = most_replaced_bytes(text.size());
  for (const NormalizerStep& step : steps_) {
    if (const auto* form = std::get_if<UnicodeForm>(&step)) {
      if (is_normal(text, *form)) continue;
      buffer = normalized(text, *form);
    } else if (std::holds_alternative<Lowercase>(step)) {
      buffer = lowercased(text);
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      if (text.empty()) continue;
      buffer = prepend->text + std::string(text);
    } else {
      buffer = replace_matches(std::get<Replace>(step), text, most);
    }
    check_size(buffer.size(), most);
    text = buffer;
  }
  return text;
}

}  // namespace nibble::bpe
