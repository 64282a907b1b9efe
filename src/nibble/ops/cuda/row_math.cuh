// RMSNorm's and SwiGLU's arithmetic, one order of operations for every kernel that makes their rows: what is quantised
// on the way (fused_quantize.cu) has the bits of what is written and read (rmsnorm.cu, swiglu.cu).
#pragma once

#include <cstdint>

#include "nibble/ops/cuda/fast_math.cuh"

namespace nibble::cuda {

// The squares of a row: of four neighbouring columns one after the other; those sums of 128 columns by halves, the
// nearest ones first; and those one after the other. Columns beyond the end count as zeros, so that the order does not
// depend on how many threads a row has, nor on whether a thread holds four or eight neighbours.

/// Of kWidth (4 or 8) columns a lane, 32 kWidth in a warp: the sum of the 128 that the lane belongs to. For eight these
/// are two sums, lanes 0 to 15 have the first.
template <int kWidth>
__device__ __forceinline__ float squares_of_128(const float (&v)[kWidth]) {
  static_assert(kWidth == 4 || kWidth == 8);
  float of_four[kWidth / 4] = {};
#pragma unroll
  for (int k = 0; k < kWidth; ++k) of_four[k / 4] = __fmaf_rn(v[k], v[k], of_four[k / 4]);
  float sum = of_four[0];
  if constexpr (kWidth == 8) sum += of_four[1];
#pragma unroll
  for (int offset = 1; offset < 128 / kWidth; offset *= 2) sum += __shfl_xor_sync(0xFFFF'FFFFu, sum, offset);
  return sum;
}

/// The sum of a row whose columns lie kWidth a lane, warp by warp, in kPacks turns: piece p of thread t (of `threads`,
/// whole warps) at column kWidth (t + p threads). `sums` has a place for every 128 columns of that; it may be written
/// again after the next barrier. In each thread.
template <int kWidth, int kPacks>
__device__ __forceinline__ float squares_of_row(const float (&v)[kPacks][kWidth], int thread, int threads,
                                                float* sums) {
  constexpr int kPerWarp = 32 * kWidth / 128;
  constexpr int kLanes = 32 / kPerWarp;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const float sum = squares_of_128(v[p]);
    if (thread % kLanes == 0) sums[(thread + p * threads) / kLanes] = sum;
  }
  __syncthreads();
  float sum = 0;
#pragma unroll 4
  for (int i = 0; i < kPacks * threads / kLanes; ++i) sum += sums[i];
  return sum;
}

/// The same of a row that one warp has, without a barrier.
template <int kWidth, int kPacks>
__device__ __forceinline__ float squares_of_warps_row(const float (&v)[kPacks][kWidth]) {
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const float part = squares_of_128(v[p]);
    if constexpr (kWidth == 4) {
      sum += part;
    } else {
      sum += __shfl_sync(0xFFFF'FFFFu, part, 0);
      sum += __shfl_sync(0xFFFF'FFFFu, part, 16);
    }
  }
  return sum;
}

__device__ __forceinline__ float rstd_of(float squares, float d, float eps) { return 1.0f / sqrtf(squares / d + eps); }

__device__ __forceinline__ float normed(float x, float rstd, float gain) { return x * rstd * gain; }

__device__ __forceinline__ float swiglu(float gate, float up) { return gate * sigmoid_fast(gate) * up; }

__device__ __forceinline__ void swiglu_gradients(float d, float gate, float up, float& d_gate, float& d_up) {
  const float s = sigmoid_fast(gate);
  d_gate = d * up * (s * (1.0f + gate * (1.0f - s)));
  d_up = d * (gate * s);
}

}  // namespace nibble::cuda
