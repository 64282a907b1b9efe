// What happens to a text before it is cut into words: the normalizers of tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nibble/data/bpe/regex.h"

namespace nibble::bpe {

/// Unicode's normalisation forms (Unicode Standard Annex 15) by the data of Unicode 9.0, which the tokenizers
/// library has.
enum class UnicodeForm { NFC, NFD, NFKC, NFKD };
/// Each character by itself, so a capital sigma is always the same small one.
struct Lowercase {};
/// Puts a text in front, unless there is nothing to put it before.
struct Prepend {
  std::string text;
};
struct Replace {
  Regex pattern;
  std::string content;
};
using NormalizerStep = std::variant<UnicodeForm, Lowercase, Prepend, Replace>;

/// The steps one after the other, on valid UTF-8.
class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}
  /// The normalised text: `text` itself where nothing changes it, else held by `buffer`. UserError where it has more
  /// than most_replaced_bytes.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  std::vector<NormalizerStep> steps_;
};

/// Bytes that replacements may make of a text of `size` bytes. NFKD makes 11 times as many of U+FDFA; what makes far
/// more is a file that is to fill the memory: replacements one after the other can double a text each.
constexpr std::size_t most_replaced_bytes(std::size_t size) { return 4096 + 64 * size; }

/// The text with `content` for every match; UserError where that would have more than `most` bytes.
std::string replace_matches(const Replace& replace, std::string_view text, std::size_t most);

}  // namespace nibble::bpe
