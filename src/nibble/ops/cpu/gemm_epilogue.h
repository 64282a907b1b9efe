// The last step of a product: a tile of sums, hot in cache, becomes elements of C.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble::cpu {

/// Widest tile the epilogue takes: a row of it is held in L1 between scaling and storing.
inline constexpr std::int64_t kMaxTileCols = 256;

/// C[m, n] (+)= ((float(sum) * unit) * scale_a[m]) * scale_b[n].
struct Epilogue {
  Tensor c;
  Accumulate accumulate = Accumulate::Overwrite;
  float unit = 1.0f;               ///< what a sum counts: quarters for E2M1 by E2M1; a power of two
  const float* scale_a = nullptr;  ///< [M]
  const float* scale_b = nullptr;  ///< [N]
  /// [N], subtracted from int32 sums (mod 2^32): what the unsigned offset of A's codes added.
  const std::int32_t* compensation = nullptr;
};

/// Sums [rows, stride], of which `cols` columns are used, go to C[m.., n..]; cols <= kMaxTileCols.
void store_tile(const Epilogue& epilogue, const std::int32_t* sums, std::int64_t stride, std::int64_t m, std::int64_t n,
                std::int64_t rows, std::int64_t cols);
void store_tile(const Epilogue& epilogue, const float* sums, std::int64_t stride, std::int64_t m, std::int64_t n,
                std::int64_t rows, std::int64_t cols);

}  // namespace nibble::cpu
