// How llama.cpp keeps the models that nibble knows: what the reader (model/gguf_model.h) and the writer
// (model/gguf_export.h) of GGUF files share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/ops/rope.h"

namespace nibble {

inline constexpr const char* kGgufArchitectureKey = "general.architecture";
inline constexpr const char* kGgufEmbedding = "token_embd.weight";
inline constexpr const char* kGgufHead = "output.weight";
inline constexpr const char* kGgufRopeFactors =
    "rope_freqs.weight";  ///< F32 [head_dim / 2], a divisor of each frequency

struct GgufArchitecture {
  const char* name;
  bool qkv_bias;
  bool qk_norm;
  bool interleaved;   ///< RoPE pairs neighbours, so rows of query and key heads stand in another order
  bool rope_factors;  ///< rope_freqs.weight is read
};
/// llama, qwen2, qwen3.
std::span<const GgufArchitecture> gguf_architectures();

/// Row of a head, of `head_dim`, that is row `row` of it in a file where rows are interleaved:
///
///   row of a head in the file   0  1     2  3        ...      row 2 j + p of the file is row j + p head_dim / 2
///   row of a head here          0  half  1  half + 1 ...
inline std::int64_t deinterleaved_row(std::int64_t row, std::int64_t head_dim) {
  return row / 2 + row % 2 * (head_dim / 2);
}

/// The divisors of RoPE's frequencies that stand for Llama 3's scaling: f / scaled_frequency(f), rounded to F32.
std::vector<float> gguf_rope_factors(double theta, std::int64_t head_dim, const RopeScaling& scaling);

}  // namespace nibble
