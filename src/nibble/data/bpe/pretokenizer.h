// From a text to the words that byte-pair encoding sees one by one: the pre-tokenizers of tokenizer.json.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nibble/data/bpe/regex.h"

namespace nibble::bpe {

/// What becomes of a match of the pattern; text between matches is a word of its own, or a part of a neighbour's.
enum class Delimiter { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous };

/// Cuts at the matches of a pattern, or, inverted, takes the matches for the text and what is between for delimiters.
struct SplitStep {
  Regex pattern;
  Delimiter behavior = Delimiter::Isolated;
  bool invert = false;
};
/// Puts a blank in front where there is none.
struct PrefixSpace {};
/// Replaces blanks by SentencePiece's sign and may put one in front.
struct Metaspace {
  enum class Prepend { Always, First, Never };  ///< First: only at the beginning of the whole text
  std::string sign;
  Prepend prepend = Prepend::Always;
};
/// Cuts before each run of a sign; for vocabularies in which that changes no id (bpe::begins_words).
struct CutBefore {
  std::string sign;
};
using PretokenizerStep = std::variant<SplitStep, PrefixSpace, Metaspace, CutBefore>;

class Pretokenizer {
 public:
  explicit Pretokenizer(std::vector<PretokenizerStep> steps) : steps_(std::move(steps)) {}

  using Receiver = std::function<void(std::string_view word)>;

  /// What one thread needs to split texts.
  class Session {
   public:
    explicit Session(const Pretokenizer& pretokenizer);
    /// Hands over the words from left to right; none is empty. `first` says that the text begins the whole one.
    void split(std::string_view text, bool first, const Receiver& receive);

   private:
    void run(std::size_t step, std::string_view text, bool first, const Receiver& receive);
    void cut(const SplitStep& split, std::size_t step, std::string_view text, bool first, const Receiver& receive);
    const std::vector<PretokenizerStep>& steps_;
    std::vector<Regex::Matcher> matchers_;  // of the steps that are a SplitStep, at their index
  };

 private:
  std::vector<PretokenizerStep> steps_;
};

}  // namespace nibble::bpe
