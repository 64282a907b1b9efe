// The two products of FP32 attention on tiles in shared memory, spread over the threads of a CTA:
//
//   products      scores[r, c] = a[r, :] . b[c, :]         a, b: row tiles [kRows, dims]
//   add_products  sums[r, :]  += scores[r, c] b[c, :]      scores: a score tile [kRows, kRows]
//
// kSide x kSide threads; the thread (y, x) has the rows y + kSide i and the score columns x + kSide j, i and j <
// kMicro, and of the sums of its rows the four dimensions from 4 (x + kSide g) on. So the kSide threads that share a
// row lie in one warp, and the threads of a quarter warp read rows of b that lie next to each other: with four floats
// of padding in each row, 16-byte loads from all banks.
#pragma once

#include <cstdint>

#include "nibble/numerics/bf16.h"

namespace nibble::cuda {

template <int kMicro_, int kSide, int kDims>
struct AttentionTiles {
  static_assert(32 % kSide == 0 && kDims % (4 * kSide) == 0);
  static constexpr int kMicro = kMicro_;
  static constexpr int kThreads = kSide * kSide;
  static constexpr int kRows = kMicro * kSide;
  static constexpr int kStride = kDims + 4;
  static constexpr int kScoreStride = kRows + 4;
  static constexpr int kGroups = kDims / (4 * kSide);
  static constexpr int kRowFloats = kRows * kStride;         // of a row tile
  static constexpr int kScoreFloats = kRows * kScoreStride;  // of a score tile

  using Scores = float[kMicro][kMicro];
  using Row = float4[kGroups];
  using Rows = Row[kMicro];

  __device__ int row(int i) const { return y + kSide * i; }
  __device__ int column(int j) const { return x + kSide * j; }

  /// scale times `rows` rows of `dims` values, zero in the rest of the tile.
  template <class T>
  __device__ void load(const T* __restrict__ from, std::int64_t stride, float scale, float* to, std::int64_t rows,
                       int dims) const {
#pragma unroll 8
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kDims; i += kThreads) {
      const int r = i / kDims;
      const int c = i % kDims;
      to[r * kStride + c] = r < rows && c < dims ? scale * to_float(from[r * stride + c]) : 0.0f;
    }
  }

  __device__ void products(const float* a, const float* b, int dims, Scores& scores) const {
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
#pragma unroll
      for (int j = 0; j < kMicro; ++j) scores[i][j] = 0.0f;
    }
    for (int d = 0; d < dims; d += 4) {
      float4 left[kMicro], right[kMicro];
#pragma unroll
      for (int i = 0; i < kMicro; ++i) {
        left[i] = *reinterpret_cast<const float4*>(a + row(i) * kStride + d);
        right[i] = *reinterpret_cast<const float4*>(b + column(i) * kStride + d);
      }
#pragma unroll
      for (int i = 0; i < kMicro; ++i) {
#pragma unroll
        for (int j = 0; j < kMicro; ++j) {
          float sum = scores[i][j];
          sum = fmaf(left[i].x, right[j].x, sum);
          sum = fmaf(left[i].y, right[j].y, sum);
          sum = fmaf(left[i].z, right[j].z, sum);
          scores[i][j] = fmaf(left[i].w, right[j].w, sum);
        }
      }
    }
  }

  __device__ void add_products(const float* tile, const float* b, Rows& sums) const {
    for (int c = 0; c < kRows; c += 4) {
      float4 weights[kMicro];
#pragma unroll
      for (int i = 0; i < kMicro; ++i) {
        weights[i] = *reinterpret_cast<const float4*>(tile + row(i) * kScoreStride + c);
      }
      add_row(
          b + c * kStride, [&](int i) { return weights[i].x; }, sums);
      add_row(
          b + (c + 1) * kStride, [&](int i) { return weights[i].y; }, sums);
      add_row(
          b + (c + 2) * kStride, [&](int i) { return weights[i].z; }, sums);
      add_row(
          b + (c + 3) * kStride, [&](int i) { return weights[i].w; }, sums);
    }
  }

  __device__ void put(float* tile, int i, int j, float value) const { tile[row(i) * kScoreStride + column(j)] = value; }
  __device__ void put(float* tile, const Scores& values) const {
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
#pragma unroll
      for (int j = 0; j < kMicro; ++j) put(tile, i, j, values[i][j]);
    }
  }

  /// Over the threads that share a row; every one gets the result.
  __device__ float row_max(float value) const {
#pragma unroll
    for (int offset = kSide / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
    return value;
  }
  __device__ float row_sum(float value) const {
#pragma unroll
    for (int offset = kSide / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    return value;
  }

  static __device__ void zero(Rows& sums) {
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) sums[i][g] = float4{0.0f, 0.0f, 0.0f, 0.0f};
    }
  }
  static __device__ void scale(Row& sums, float factor) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      sums[g] = float4{sums[g].x * factor, sums[g].y * factor, sums[g].z * factor, sums[g].w * factor};
    }
  }

  template <class T>
  __device__ void store(const Row& sums, float factor, T* __restrict__ to, int dims) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const float values[4] = {sums[g].x, sums[g].y, sums[g].z, sums[g].w};
      const int first = 4 * column(g);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (first + c < dims) to[first + c] = from_float<T>(values[c] * factor);
      }
    }
  }

 private:
  template <class Weight>
  __device__ void add_row(const float* b, Weight weight, Rows& sums) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const float4 value = *reinterpret_cast<const float4*>(b + 4 * column(g));
#pragma unroll
      for (int i = 0; i < kMicro; ++i) {
        sums[i][g].x = fmaf(weight(i), value.x, sums[i][g].x);
        sums[i][g].y = fmaf(weight(i), value.y, sums[i][g].y);
        sums[i][g].z = fmaf(weight(i), value.z, sums[i][g].z);
        sums[i][g].w = fmaf(weight(i), value.w, sums[i][g].w);
      }
    }
  }

  int x = static_cast<int>(threadIdx.x) % kSide;
  int y = static_cast<int>(threadIdx.x) / kSide;
};

}  // namespace nibble::cuda
