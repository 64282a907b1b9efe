// The tokenizer that a GGUF file carries (tokenizer.ggml.*), as the files of a Hugging Face folder. One path from
// there: ids are those of data/bpe, and exported models take the files along.
//
//   tokenizer.ggml.model         "gpt2": byte-level BPE; "llama": SentencePiece's BPE
//   tokenizer.ggml.pre           of gpt2: how a text is cut into words; see below
//   tokenizer.ggml.tokens        the tokens as the vocabulary spells them
//   tokenizer.ggml.token_type    1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
//   tokenizer.ggml.merges        of gpt2: "left right", the first is applied first
//   tokenizer.ggml.scores        of llama: the pair that makes the token of the highest score is merged first
//   tokenizer.ggml.*_token_id    bos, eos, unknown, padding; eot and eom, with which an instruct model ends a turn
//   tokenizer.ggml.add_bos_token, add_eos_token, add_space_prefix; tokenizer.chat_template
//
// The names of `pre` and what they stand for, as llama.cpp has it:
//
//   default, or none                     punctuation, GPT-2's words, digits by threes: the rule of old files
//   gpt-2 phi-2 olmo exaone4             GPT-2's words
//   smollm starcoder refact codeshell    single digits, then GPT-2's words
//   llama-bpe llama3 llama-v3 falcon3    Llama 3's words; a word that is a token is not merged
//   qwen2 deepseek-r1-qwen megrez        Qwen's words, on text in NFC
//   tekken                               Mistral's words (Nemo); a word that is a token is not merged
//
// Control tokens become special tokens, user-defined ones added tokens; both are found in a text before anything else.
// Unused tokens are left out: they stand where a model's table has rows without a token.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "nibble/data/tokenizer.h"
#include "nibble/io/gguf.h"

namespace nibble {

/// Whether the file has a tokenizer at all.
bool has_gguf_tokenizer(const GgufFile& file);

/// tokenizer.json, tokenizer_config.json, with a chat template where the file has one, and generation_config.json with
/// the ids of beginning, ends and padding. UserError for a kind that is not supported and for what contradicts itself.
std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file);

/// The tokens that end a text, a turn or a message, of those that the file names (eos, eot, eom).
std::set<std::int32_t> gguf_end_ids(const GgufFile& file);

/// The tokenizer of these files.
Tokenizer gguf_tokenizer(const GgufFile& file);

}  // namespace nibble
