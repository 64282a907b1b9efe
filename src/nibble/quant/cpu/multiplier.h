// What a row's elements are multiplied by before rounding: one number, or one for each column.
#pragma once

#include <cstdint>

// A SIMD clone (tensor/simd.h) vectorises only what is inlined into it.
#define NIBBLE_INLINE inline __attribute__((always_inline))

namespace nibble::quant_cpu {

struct Multiplier {
  float scalar = 1.0f;
  const float* each = nullptr;  ///< used instead of `scalar` where not null
};

/// The two cases as loop bodies: the scaled element i of row y.
struct ByScalar {
  float m;
  NIBBLE_INLINE float operator()(const float* y, std::int64_t i) const { return y[i] * m; }
};
struct ByColumn {
  const float* __restrict m;
  NIBBLE_INLINE float operator()(const float* y, std::int64_t i) const { return y[i] * m[i]; }
};

}  // namespace nibble::quant_cpu
