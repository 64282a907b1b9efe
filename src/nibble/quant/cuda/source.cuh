// The matrix that a quantiser sees, eight columns at a time: y = x (rounded to BF16 on request) * row_fold[r] *
// col_fold[c], under a Hadamard transform and within bounds where there are any. A transposed operand is copied first
// (transpose.cu) or read by columns (columns.cu).
#pragma once

#include "nibble/quant/cpu/clamp.h"
#include "nibble/quant/cuda/hadamard_rows.cuh"
#include "nibble/quant/cuda/load_eight.cuh"

namespace nibble::quant_cuda {

using Bounds = quant_cpu::KeyBounds<std::int32_t>;

/// As a kernel takes it. Rows and columns are below 2^31, their product need not be.
struct SourceView {
  const void* x = nullptr;
  std::uint32_t rows = 0;  ///< of y
  std::uint32_t cols = 0;
  bool wide = false;  ///< every row begins at a multiple of 16 bytes
  bool round_to_bf16 = false;
  const float* row_fold = nullptr;
  const float* col_fold = nullptr;
  HadamardFactors hadamard;
  const Bounds* bounds = nullptr;  ///< of the clamp: one a row, or one
  bool bounds_of_rows = false;
};

template <int kPer>
__device__ __forceinline__ void clamp_to(float (&y)[kPer], Bounds bounds) {
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    y[i] = quant_cpu::key_float(min(max(quant_cpu::float_key(y[i]), bounds.low), bounds.high));
  }
}

/// y before transform and clamp, columns [c, c + 8) of row r; zeros where r or c lies outside.
template <class T>
__device__ __forceinline__ void read_untransformed(const SourceView& s, std::uint32_t r, std::uint32_t c,
                                                   float (&y)[8]) {
  const bool inside = r < s.rows && c < s.cols;
  if (inside) {
    load_eight(static_cast<const T*>(s.x) + static_cast<std::int64_t>(r) * s.cols, c, s.cols, s.wide, y);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = 0.0f;
  }
  if (s.round_to_bf16) {
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = bf16_round(y[i]);
  }
  if (s.row_fold != nullptr && inside) {
    const float fold = s.row_fold[r];
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if (c + i < s.cols) y[i] *= fold;  // beyond the end stays +0, whose code fills the last byte
    }
  }
  if (s.col_fold != nullptr && inside) {
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if (c + i < s.cols) y[i] *= s.col_fold[c + i];
    }
  }
}

/// y before the clamp. All lanes of a warp take part where there is a transform, their columns lying as
/// hadamard_rows.cuh wants them.
template <class T>
__device__ __forceinline__ void read_unclamped(const SourceView& s, std::uint32_t r, std::uint32_t c, float (&y)[8]) {
  read_untransformed<T>(s, r, c, y);
  if (s.hadamard.group > 0) hadamard_forward(y, s.hadamard, c);
}

/// y_c likewise; beyond the end of a row the bounds do not count.
template <class T>
__device__ __forceinline__ void read_eight(const SourceView& s, std::uint32_t r, std::uint32_t c, float (&y)[8]) {
  read_unclamped<T>(s, r, c, y);
  if (s.bounds == nullptr || r >= s.rows || c >= s.cols) return;
  clamp_to(y, s.bounds[s.bounds_of_rows ? r : 0]);
  if (c + 8 <= s.cols) return;
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) {
    if (c + i >= s.cols) y[i] = 0.0f;
  }
}

/// One element of y_c; not under a transform.
template <class T>
__device__ __forceinline__ float read_one(const SourceView& s, std::uint32_t r, std::uint32_t c) {
  float y = to_float(static_cast<const T*>(s.x)[static_cast<std::int64_t>(r) * s.cols + c]);
  if (s.round_to_bf16) y = bf16_round(y);
  if (s.row_fold != nullptr) y *= s.row_fold[r];
  if (s.col_fold != nullptr) y *= s.col_fold[c];
  if (s.bounds == nullptr) return y;
  const Bounds bounds = s.bounds[s.bounds_of_rows ? r : 0];
  return quant_cpu::key_float(min(max(quant_cpu::float_key(y), bounds.low), bounds.high));
}

}  // namespace nibble::quant_cuda
