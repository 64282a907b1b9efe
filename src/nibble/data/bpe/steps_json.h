// The three chains of tokenizer.json from JSON. UserError, which names it, for a step that is not supported.
#pragma once

#include <vector>

#include "nibble/data/bpe/decoder.h"
#include "nibble/data/bpe/json_node.h"
#include "nibble/data/bpe/normalizer.h"
#include "nibble/data/bpe/pretokenizer.h"

namespace nibble::bpe {

/// Each appends the steps of one node: a step, or a Sequence of them.
void read_normalizer(const JsonNode& node, std::vector<NormalizerStep>& steps);
/// Sets `byte_level` where ByteLevel ends the chain.
void read_pretokenizer(const JsonNode& node, std::vector<PretokenizerStep>& steps, bool& byte_level);
void read_decoder(const JsonNode& node, std::vector<DecoderStep>& steps);

}  // namespace nibble::bpe
