// UTF-8 text, a character at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace nibble {

/// Bytes of the character that begins with `lead`, in valid UTF-8.
constexpr std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// Bytes of the well-formed character (Unicode 15, table 3-7) at the beginning of any bytes; 0 where there is none.
std::size_t well_formed_utf8(std::string_view bytes);

/// The code point at the beginning of valid UTF-8.
char32_t utf8_code_point(std::string_view text);

void append_utf8(char32_t code_point, std::string& out);

/// Valid UTF-8 for any bytes: each maximal part that is not UTF-8 (Unicode 15, section 3.9, table 3-8) becomes one
/// U+FFFD, as Python's errors="replace" does it.
std::string repaired_utf8(std::string_view bytes);

std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace nibble
