// Text of which only a part counts in the loss, as token ids.
//
// Where a part that counts meets one that does not, no token may hold characters of both: it would either teach the
// prompt or hide the completion's beginning. Both sides are encoded together, as one text, if the ids of the first part
// alone are the beginning of the result: then a model that is given the first part reads exactly these ids, and what
// follows is how the tokenizer goes on (" blue" after "The sky is" has no blank token of its own, and SentencePiece
// puts no second blank before it). Otherwise a token of the whole would span the border; then what follows is encoded
// by itself, since it is the first part alone that a model is given later. Such a border is cut, and counted.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nibble/data/tokenizer.h"

namespace nibble {

/// A text, or one token that stands between texts and is never part of them.
struct MaskedPart {
  std::string text;
  std::int32_t token = -1;  ///< its id; -1: a text
  /// Of a token: the tokenizer finds it where the text behind it is encoded with its spelling `text` before it. Then it
  /// is encoded so, for some tokenizers treat the beginning of a text otherwise. Else that text stands for itself.
  bool spelled = false;
  bool counted = false;
};

struct MaskedTokens {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> counted;  ///< 1 where the id counts in the loss as a target, else 0
  std::int64_t cut_borders = 0;       ///< where a token would have spanned a border
};

/// Appends the parts in order. Neighbouring texts that both count, or both do not, are one text.
void encode_masked(const Tokenizer& tokenizer, std::span<const MaskedPart> parts, MaskedTokens& out,
                   WordCache* cache = nullptr);

}  // namespace nibble
