// The kinds of tokens in tokenizer.ggml.token_type of a GGUF file: llama.cpp's, which are SentencePiece's.
#pragma once

#include <cstdint>

namespace nibble::gguf_token {

enum Type : std::int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

}  // namespace nibble::gguf_token
