// A tokenizer as llama.cpp embeds it in GGUF files: the metadata tokenizer.*, with which it makes the ids that
// data/tokenizer.h makes.
//
//   SentencePiece's .model (BPE)     tokenizer.ggml.model "llama": pieces, scores and types as the file has them. Where
//                                    the vocabulary has nibble's piece <n>, its text is a newline: what it stands for
//   tokenizer.json, byte level       tokenizer.ggml.model "gpt2": vocabulary, merges, added tokens, and in
//                                    tokenizer.ggml.pre llama.cpp's name for how a text is cut into words
//
// tokenizer.ggml.add_bos_token is what tokenizer_config.json says (add_bos_token), else whether the template of
// tokenizer.json begins with a token, else false, as nibble trains. llama.cpp knows no normalisation: NFC, which Qwen's
// files ask for, is left to the caller, as it is with llama.cpp's own converter.
#pragma once

#include <cstdint>
#include <filesystem>

#include "nibble/io/gguf.h"

namespace nibble {

/// Of a folder as Tokenizer::load takes it, or a file, for a model of `rows` embedding rows; rows without a token are
/// called [PAD n] and unused. Of a folder with both kinds of file, tokenizer.json is taken where it is of byte level.
/// UserError for a tokenizer of another kind, one that cuts a text in a way that llama.cpp has no name for, and one
/// with more tokens than rows.
GgufMetadata gguf_vocabulary(const std::filesystem::path& tokenizer, std::int64_t rows);

}  // namespace nibble
