// Hugging Face's tokenizer.json with a model of type BPE.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/data/bpe/added_tokens.h"
#include "nibble/data/bpe/decoder.h"
#include "nibble/data/bpe/model.h"
#include "nibble/data/bpe/normalizer.h"
#include "nibble/data/bpe/pretokenizer.h"

namespace nibble::bpe {

struct TokenizerJson {
  ModelConfig model;
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PretokenizerStep> pretokenizer;
  std::vector<DecoderStep> decoder;
  std::int32_t bos = -1;  ///< -1: none
  std::int32_t eos = -1;
  bool adds_bos = false;  ///< texts begin with it by themselves
};

/// Reads the file's text; `config` is that of the tokenizer_config.json beside it, or empty.
///   normalizer      NFC NFD NFKC NFKD Lowercase Prepend Replace Sequence
///   pre_tokenizer   ByteLevel (as the last) Split Digits Metaspace Sequence
///   model           BPE without dropout, subword prefix and word suffix
///   decoder         ByteLevel ByteFallback Fuse Metaspace Replace Strip Sequence
///   post_processor  ByteLevel TemplateProcessing Sequence: read for beginning and end only
/// The ids of beginning and end are those that `config` names, else what the template puts before and after a text,
/// else those of the names that are customary; `adds_bos` is what `config` says, else whether the template puts
/// something before a text. UserError, which begins with `origin`, for anything else, for what
/// contradicts itself, and where there is no end. Truncation and padding are not read.
TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view config, const std::string& origin);

}  // namespace nibble::bpe
