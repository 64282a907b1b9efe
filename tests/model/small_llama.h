// A model that a test can train in a moment, wide enough for every recipe.
#pragma once

#include "nibble/model/config.h"

namespace nibble::testing_support {

// 128 is the longest group of a transform among the recipes.
inline LlamaConfig small_llama(std::int64_t layers) {
  LlamaConfig c;
  c.layers = layers;
  c.width = 128;
  c.heads = 4;
  c.kv_heads = 2;
  c.ffn = 256;
  c.vocab = 67;
  c.seq = 64;
  return c;
}

/// The same with what Llama's relatives add.
inline LlamaConfig small_relative(std::int64_t layers) {
  LlamaConfig c = small_llama(layers);
  c.qkv_bias = c.qk_norm = true;
  c.own_head_dim = 64;
  return c;
}

}  // namespace nibble::testing_support
