// From the spellings of tokens back to text: the decoders of tokenizer.json.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "nibble/data/bpe/normalizer.h"

namespace nibble::bpe {

/// Characters to the bytes that they spell; a token with other characters stays as it is. Joins the tokens.
struct DecodeByteLevel {};
/// "<0xE2>" and the like to the byte.
struct DecodeByteFallback {};
/// Joins the tokens.
struct Fuse {};
/// Takes up to so many of one character from the beginning and the end of each token.
struct Strip {
  std::string content;
  std::size_t start = 0, stop = 0;
};
/// SentencePiece's sign to a blank, or in the first token, if texts are encoded with one in front, to nothing.
struct DecodeMetaspace {
  std::string sign;
  bool prepended = true;
};
using DecoderStep = std::variant<DecodeByteLevel, DecodeByteFallback, Fuse, Strip, DecodeMetaspace, Replace>;

/// The steps one after the other, and the join. The result is bytes: tokens that end within a character give the part
/// of it, where the tokenizers library writes U+FFFD.
std::string decode(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens);

}  // namespace nibble::bpe
