#include "nibble/data/word_boundaries.h"

#include <cstdint>

#include "nibble/data/wire_format.h"

namespace nibble {

namespace {

constexpr std::string_view kSpaceSign = "\xE2\x96\x81";  // U+2581

/// A message of sentencepiece_model.proto; the numbers below are its field numbers.
bool piece_allows(std::string_view message) {
  constexpr std::uint64_t kUnknown = 2, kControl = 3;
  std::string_view piece;
  std::uint64_t type = 1;
  WireReader reader(message);
  while (reader.next()) {
    if (reader.field == 1) piece = reader.bytes;
    if (reader.field == 3) type = reader.value;
  }
  if (!reader.ok()) return false;
  if (type == kUnknown || type == kControl) return true;  // never matched in a text
  while (piece.starts_with(kSpaceSign)) piece.remove_prefix(kSpaceSign.size());
  return piece.find(kSpaceSign) == piece.npos && piece.find(' ') == piece.npos;
}

bool trainer_allows(std::string_view message) {
  constexpr std::uint64_t kBpe = 2;
  std::uint64_t model_type = 1;
  bool space_is_suffix = false;
  WireReader reader(message);
  while (reader.next()) {
    if (reader.field == 3) model_type = reader.value;
    if (reader.field == 24) space_is_suffix = reader.value != 0;
  }
  return reader.ok() && model_type == kBpe && !space_is_suffix;
}

bool normalizer_allows(std::string_view message) {
  bool has_rules = false, dummy_prefix = true, spaces_become_signs = true;
  WireReader reader(message);
  while (reader.next()) {
    if (reader.field == 2 || reader.field == 6) has_rules |= !reader.bytes.empty();
    if (reader.field == 3) dummy_prefix = reader.value != 0;
    if (reader.field == 5) spaces_become_signs = reader.value != 0;
  }
  return reader.ok() && !has_rules && dummy_prefix && spaces_become_signs;
}

}  // namespace

bool words_are_independent(std::string_view model) {
  bool trainer = false, normalizer = false;
  WireReader reader(model);
  while (reader.next()) {
    if (reader.field == 1 && !piece_allows(reader.bytes)) return false;
    if (reader.field == 2) trainer = trainer_allows(reader.bytes);
    if (reader.field == 3) normalizer = normalizer_allows(reader.bytes);
  }
  return reader.ok() && trainer && normalizer;
}

std::size_t next_word(std::string_view text, std::size_t from) {
  for (std::size_t at = text.find(' ', from + 1); at != text.npos; at = text.find(' ', at + 1)) {
    if (text[at - 1] == ' ' || text.substr(0, at).ends_with(kSpaceSign)) continue;
    return text.find_first_not_of(' ', at) == text.npos ? text.size() : at;
  }
  return text.size();
}

}  // namespace nibble
