// Sixteen bytes of a row of a dense matrix, as the products with a sparse one read and add to them.
#pragma once

#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

/// Rows are whole, aligned pieces.
inline bool aligned_rows(const Tensor& x) {
  return reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0 &&
         static_cast<std::size_t>(x.cols()) * dtype_size(x.dtype()) % 16 == 0;
}

/// row[c .. ], zeros beyond column n; `whole` says that rows are whole, aligned pieces.
template <class W>
__device__ inline uint4 load_row_piece(const W* row, std::int64_t c, std::int64_t n, bool whole) {
  uint4 piece{};
  if (c >= n) return piece;
  if (whole) return __ldg(reinterpret_cast<const uint4*>(row + c));
  constexpr int kCount = 16 / sizeof(W);
  constexpr int kBits = 8 * sizeof(W);
  std::uint32_t words[4] = {};
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (c + j >= n) continue;
    std::uint32_t bits;
    if constexpr (sizeof(W) == 2) {
      bits = row[c + j].bits;
    } else {
      bits = __float_as_uint(row[c + j]);
    }
    words[j * kBits / 32] |= bits << j * kBits % 32;
  }
  return {words[0], words[1], words[2], words[3]};
}

/// sum += v * piece, a piece of BF16 or of F32.
__device__ inline void multiply_add(float v, const uint4& piece, float (&sum)[8]) {
  const std::uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    sum[2 * j] = __fmaf_rn(v, __uint_as_float(words[j] << 16), sum[2 * j]);
    sum[2 * j + 1] = __fmaf_rn(v, __uint_as_float(words[j] & 0xFFFF'0000u), sum[2 * j + 1]);
  }
}
__device__ inline void multiply_add(float v, const uint4& piece, float (&sum)[4]) {
  sum[0] = __fmaf_rn(v, __uint_as_float(piece.x), sum[0]);
  sum[1] = __fmaf_rn(v, __uint_as_float(piece.y), sum[1]);
  sum[2] = __fmaf_rn(v, __uint_as_float(piece.z), sum[2]);
  sum[3] = __fmaf_rn(v, __uint_as_float(piece.w), sum[3]);
}

/// y[c .. c + kLane) += sum, of n columns; `whole` says that rows are whole, aligned pieces.
template <class Y, int kLane>
__device__ inline void add_piece(const float (&sum)[kLane], Y* y, std::int64_t c, std::int64_t n, bool whole) {
  if (whole && c + kLane <= n) {
    constexpr int kVector = 16 / sizeof(Y) < kLane ? 16 / sizeof(Y) : kLane;  // 4 or 8 elements, 8 or 16 bytes
    struct alignas(kVector * sizeof(Y)) Vector {
      Y x[kVector];
    };
#pragma unroll
    for (int j = 0; j < kLane; j += kVector) {
      Vector v = *reinterpret_cast<const Vector*>(y + c + j);
#pragma unroll
      for (int i = 0; i < kVector; ++i) v.x[i] = from_float<Y>(to_float(v.x[i]) + sum[j + i]);
      *reinterpret_cast<Vector*>(y + c + j) = v;
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kLane; ++j) {
    if (c + j < n) y[c + j] = from_float<Y>(to_float(y[c + j]) + sum[j]);
  }
}

}  // namespace nibble::cuda
