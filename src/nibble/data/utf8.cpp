#include "nibble/data/utf8.h"

namespace nibble {

namespace {

/// Length of the well-formed character at the beginning of `bytes`, or, negated, of the part of one that is there.
int well_formed(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0u; };
  const unsigned lead = at(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  // The second byte excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (at(1) < low || at(1) > high) return -1;
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (int i = 2; i < length; ++i) {
    if ((at(static_cast<std::size_t>(i)) & 0xC0) != 0x80) return -i;
  }
  return length;
}

}  // namespace

std::size_t well_formed_utf8(std::string_view bytes) {
  const int length = bytes.empty() ? 0 : well_formed(bytes);
  return length > 0 ? static_cast<std::size_t>(length) : 0;
}

char32_t utf8_code_point(std::string_view text) {
  const std::size_t length = utf8_length(text[0]);
  const auto lead = static_cast<unsigned char>(text[0]);
  char32_t c = length == 1 ? lead : lead & (0xFFu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) c = c << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
  return c;
}

void append_utf8(char32_t c, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xE0 | c >> 12);
    } else {
      put(0xF0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3F));
    }
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

std::string repaired_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const int length = well_formed(bytes);
    if (length > 0) {
      out.append(bytes, 0, static_cast<std::size_t>(length));
    } else {
      out.append("\xEF\xBF\xBD");
    }
    bytes.remove_prefix(static_cast<std::size_t>(length > 0 ? length : -length));
  }
  return out;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 32);
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(from, begin)) != std::string_view::npos; begin = at + from.size()) {
    out.append(text, begin, at - begin).append(to);
  }
  return out.append(text, begin);
}

}  // namespace nibble
