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
  /// The normalised text: `text` itself where nothing changes it, else held by `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  std::vector<NormalizerStep> steps_;
};

std::string replace_matches(const Replace& replace, std::string_view text);

}  // namespace nibble::bpe
