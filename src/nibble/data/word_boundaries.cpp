#include "nibble/data/word_boundaries.h"

#include <cstdint>

namespace nibble {

namespace {

constexpr std::string_view kSpaceSign = "\xE2\x96\x81";  // U+2581

/// Reads the fields of one message in the protocol buffer wire format.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}

  /// The next field: its number, and its value or its bytes. False at the end, and (with !ok()) for malformed data.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field = key >> 3;
    value = 0;
    bytes = {};
    switch (key & 7) {
      case 0: value = varint(); break;
      case 1: bytes = take(8); break;
      case 2: bytes = take(varint()); break;
      case 5: bytes = take(4); break;
      default: ok_ = false;
    }
    return ok_;
  }
  bool ok() const { return ok_; }

  std::uint64_t field = 0;
  std::uint64_t value = 0;
  std::string_view bytes;

 private:
  std::uint64_t varint() {
    std::uint64_t result = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const std::string_view byte = take(1);
      if (!ok_) return 0;
      result |= static_cast<std::uint64_t>(byte[0] & 0x7F) << shift;
      if ((byte[0] & 0x80) == 0) return result;
    }
    ok_ = false;
    return 0;
  }
  std::string_view take(std::uint64_t n) {
    if (n > rest_.size()) {
      ok_ = false;
      return {};
    }
    const std::string_view taken = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return taken;
  }

  std::string_view rest_;
  bool ok_ = true;
};

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
