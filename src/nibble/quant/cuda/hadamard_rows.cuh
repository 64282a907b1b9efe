// The blockwise Hadamard transform of quant/hadamard.h on rows in registers.
//
// A row lies along consecutive lanes, kPer consecutive columns in each, and a group begins at a lane that is a multiple
// of group / kPer (of 1 where the group is smaller). Levels run over strides 1, 2, 4, ...: those below kPer within a
// lane, the others between lanes by shuffles. Each level is one sum and one difference, so the bits are the CPU's.
#pragma once

#include <cmath>

#include "nibble/quant/hadamard.h"

namespace nibble::quant_cuda {

/// One transform with its signs drawn, as a kernel takes it.
struct HadamardFactors {
  int group = 0;  ///< 0: no transform
  bool signs_last = false;
  float scale = 1;              ///< 1 / sqrt(group)
  std::uint32_t negative[8]{};  ///< bit c % 32 of word (c % group) / 32: the sign of column c
};

inline HadamardFactors hadamard_factors(const Hadamard& transform, const RandomStream& stream) {
  HadamardFactors factors;
  if (!transform.enabled()) return factors;
  float signs[256];
  hadamard_signs(transform, stream, signs);
  factors.group = static_cast<int>(transform.group);
  factors.signs_last = transform.signs_last;
  factors.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(transform.group)));
  for (int c = 0; c < 256; ++c) {
    if (signs[c % factors.group] < 0) factors.negative[c / 32] |= 1u << (c % 32);
  }
  return factors;
}

/// y times the signs of columns [column, column + kPer); kPer divides 32 and `column`.
template <int kPer>
__device__ __forceinline__ void hadamard_flip(float (&y)[kPer], const HadamardFactors& factors, int group,
                                              std::uint32_t column) {
  const std::uint32_t word = (column & static_cast<std::uint32_t>(group - 1)) >> 5;
  const std::uint32_t bits = factors.negative[word] >> (column & 31u);
#pragma unroll
  for (int i = 0; i < kPer; ++i) y[i] = bits_float(float_bits(y[i]) ^ ((bits >> i & 1u) << 31));
}

/// y = y H. All lanes of the warp take part.
template <int kPer>
__device__ __forceinline__ void hadamard_mix(float (&y)[kPer], int group) {
#pragma unroll
  for (int stride = 1; stride < kPer; stride *= 2) {
    if (stride >= group) return;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if ((i & stride) != 0) continue;
      const float a = y[i];
      const float b = y[i + stride];
      y[i] = a + b;
      y[i + stride] = a - b;
    }
  }
  for (int lanes = 1; lanes * kPer < group; lanes *= 2) {
    const float sign = (threadIdx.x & static_cast<unsigned>(lanes)) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const float other = __shfl_xor_sync(0xFFFF'FFFFu, y[i], lanes);
      y[i] = __fmaf_rn(y[i], sign, other);  // the upper of a pair: a - b; the product is exact
    }
  }
}

/// The transform of the columns [column, column + kPer) of a row, whose signs have been applied where they come first.
/// threadIdx.x counts the lanes. A group that is known to the compiler is kGroup.
template <int kPer, int kGroup = 0>
__device__ __forceinline__ void hadamard_of_signed(float (&y)[kPer], const HadamardFactors& factors,
                                                   std::uint32_t column) {
  const int group = kGroup > 0 ? kGroup : factors.group;
  hadamard_mix(y, group);
#pragma unroll
  for (int i = 0; i < kPer; ++i) y[i] *= factors.scale;
  if (factors.signs_last) hadamard_flip(y, factors, group, column);
}

/// The same with all signs.
template <int kPer, int kGroup = 0>
__device__ __forceinline__ void hadamard_forward(float (&y)[kPer], const HadamardFactors& factors,
                                                 std::uint32_t column) {
  if (!factors.signs_last) hadamard_flip(y, factors, kGroup > 0 ? kGroup : factors.group, column);
  hadamard_of_signed<kPer, kGroup>(y, factors, column);
}

}  // namespace nibble::quant_cuda
