// A row of F32 or BF16 storage to and from floats in cache, for kernels that compute in float on short pieces.
#pragma once

#include <cstdint>

#include "nibble/numerics/bf16.h"

namespace nibble {

/// to[i] = scale * from[i]
void load_row(const float* from, float scale, float* to, std::int64_t n);
void load_row(const bf16* from, float scale, float* to, std::int64_t n);

/// to[i] = scale * from[i], rounded to nearest even
void store_row(const float* from, float scale, float* to, std::int64_t n);
void store_row(const float* from, float scale, bf16* to, std::int64_t n);

}  // namespace nibble
