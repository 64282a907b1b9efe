// E2M1 codes of eight values at a time, by float arithmetic almost alone: the integer pipe of an H100 has half the rate
// of its float pipe, and min, max, compare, shift and logic all run there.
//
// With h = |z| / 2 the code of a magnitude is a sum of three saturated pieces, of which one at most is between 0 and 1:
//
//   g = 4 sat(h) + 2 sat(h - 1) + sat(h - 2)          0 0.5 1 1.5 2 3 4 6  ->  0 1 2 3 4 5 6 7, linear between
//
// so a value halfway between two elements is halfway between two integers, and rounding g rounds z. Each piece is exact
// (h - 1 and h - 2 are where they count), and added by one operation to a float whose last place is one code, or half a
// code where a tie does not go to even. Directed rounding of partial sums to the grids of floats is that of the sum.
//
// A value that is not finite would count as zero: `all_finite` says that there is none, else they become the largest.
#pragma once

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/philox.h"
#include "nibble/numerics/rounding.h"

namespace nibble::quant_cuda {

/// Floats from here count codes, or halves of codes, in their last place.
constexpr float kCodes = 0x1.8p23f;
constexpr float kHalfCodes = 0x1.8p22f;

/// a + b within [0, 1]; NaN becomes 0.
__device__ __forceinline__ float saturated_sum(float a, float b) {
  float sum;
  asm("add.sat.f32 %0, %1, %2;" : "=f"(sum) : "f"(a), "f"(b));
  return sum;
}

struct E2m1Pieces {
  float s1, s2, s3;
  /// h has half the magnitude.
  __device__ __forceinline__ explicit E2m1Pieces(float h)
      : s1(saturated_sum(fabsf(h), 0.0f)), s2(saturated_sum(fabsf(h), -1.0f)), s3(saturated_sum(fabsf(h), -2.0f)) {}
};

/// A float whose last bits are the code of z's magnitude (Tie::Even) or twice the code and one bit below.
template <Tie tie>
__device__ __forceinline__ std::uint32_t e2m1_count(float z) {
  if constexpr (tie == Tie::Even) {
    const E2m1Pieces g(z * 0.5f);
    return float_bits(__fadd_rn(g.s3, __fmaf_rn(2.0f, g.s2, __fmaf_rn(4.0f, g.s1, kCodes))));
  } else if constexpr (tie == Tie::Away) {
    const E2m1Pieces g(z * 0.5f);  // half a code more, rounded down
    return float_bits(__fadd_rd(g.s3, __fmaf_rd(2.0f, g.s2, __fmaf_rd(4.0f, g.s1, kHalfCodes + 0.5f))));
  } else {
    // Rounded up to halves, then down to codes: a tie goes down. The upper tie rule wants that of negative values only;
    // the others get one bit more, which makes a tie no tie and changes no other code.
    float h = z * -0.5f;
    if constexpr (tie == Tie::Up) h = bits_float(float_bits(h) + (float_bits(h) >> 31));
    const E2m1Pieces g(h);
    return float_bits(__fadd_ru(g.s3, __fmaf_ru(2.0f, g.s2, __fmaf_ru(4.0f, g.s1, kHalfCodes))));
  }
}

/// The value of that code, as a float whose exponent bias is 1 (decode_e2m1).
template <Tie tie>
__device__ __forceinline__ float e2m1_nearest_magnitude(float z) {
  const std::uint32_t count = e2m1_count<tie>(z);
  return bits_float(tie == Tie::Even ? count << 22 : (count & 0xFFFF'FFFEu) << 21) * 0x1p126f;
}

/// Bits 3, 7, 11, ... : the signs.
__device__ __forceinline__ std::uint32_t signs_of_eight(const float (&z)[8]) {
  const auto tops = [&](int i) {  // the upper bytes of every other value from i
    const std::uint32_t low = __byte_perm(float_bits(z[i]), float_bits(z[i + 2]), 0x0073u);
    const std::uint32_t high = __byte_perm(float_bits(z[i + 4]), float_bits(z[i + 6]), 0x0073u);
    return __byte_perm(low, high, 0x5410u);
  };
  return (tops(0) >> 4 & 0x0808'0808u) | (tops(1) & 0x8080'8080u);
}

/// Counts of codes side by side, four bits each.
__device__ __forceinline__ std::uint32_t side_by_side(const std::uint32_t (&count)[8], float from) {
  std::uint32_t sum = 0u - float_bits(from) * 0x1111'1111u;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += count[i] * (1u << (4 * i));
  return sum;
}

/// Values that are not finite: the largest element.
__device__ __forceinline__ std::uint32_t saturate_the_rest(const float (&z)[8], bool all_finite, std::uint32_t codes) {
  if (all_finite) return codes;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (!isfinite(z[i])) codes |= 7u << (4 * i);
  }
  return codes;
}

template <Tie tie>
__device__ __forceinline__ std::uint32_t e2m1_nearest_eight(const float (&z)[8], bool all_finite) {
  std::uint32_t count[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) count[i] = e2m1_count<tie>(z[i]);
  std::uint32_t codes = side_by_side(count, tie == Tie::Even ? kCodes : kHalfCodes);
  if constexpr (tie != Tie::Even) codes = codes >> 1 & 0x7777'7777u;
  codes = saturate_the_rest(z, all_finite, codes);
  std::uint32_t signs = signs_of_eight(z);
  if constexpr (tie == Tie::Up) signs &= (codes | codes << 1 | codes << 2 | codes << 3) & 0x8888'8888u;  // none on zero
  return codes | signs;
}

/// One code more where the upper 24 bits of the word, as a share, are below the rest of g: g less that share, rounded
/// up. The share leaves s3 first: the sums that follow are rounded after the pieces between 0 and 1, and rounding up
/// crosses no integer. (6 less the share would be rounded to twice the last place of s3.)
__device__ __forceinline__ std::uint32_t e2m1_stochastic_eight(const float (&z)[8], const std::uint32_t (&words)[8],
                                                               bool all_finite) {
  std::uint32_t count[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const E2m1Pieces g(z[i] * 0.5f);
    const float word = __uint2float_rn(words[i] & 0xFFFF'FF00u);
    const float rest = __fmaf_ru(word, -0x1p-32f, g.s3);
    const float sum = __fmaf_ru(4.0f, g.s1, __fmaf_ru(2.0f, g.s2, rest));
    count[i] = float_bits(__fadd_ru(sum, kCodes));
  }
  return saturate_the_rest(z, all_finite, side_by_side(count, kCodes)) | signs_of_eight(z);
}

/// The magnitude plus `byte` 256ths of its step, rounded to a float, then down to an element. The steps 1/2, 1 and 2
/// are sums of numbers that are 0 or 1 as the magnitude is below or not below 2 and 4.
template <class Byte>
__device__ __forceinline__ std::uint32_t e2m1_stochastic8_eight(const float (&z)[8], const Byte& byte,
                                                                bool all_finite) {
  std::uint32_t count[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float a = __fadd_rn(fabsf(z[i]), 0.0f);
    const float from_two = saturated_sum(__fmaf_rn(a, 0x1p23f, -16777215.0f), 0.0f);
    const float from_four = saturated_sum(__fmaf_rn(a, 0x1p22f, -16777215.0f), 0.0f);
    const float step256 = __fmaf_rn(from_four, 0x1p-8f, __fmaf_rn(from_two, 0x1p-9f, 0x1p-9f));
    const float t = __fmaf_rn(static_cast<float>(byte(i)), step256, a);
    const E2m1Pieces g(t * 0.5f);
    count[i] = float_bits(__fadd_rd(g.s3, __fmaf_rd(2.0f, g.s2, __fmaf_rd(4.0f, g.s1, kCodes))));
  }
  return saturate_the_rest(z, all_finite, side_by_side(count, kCodes)) | signs_of_eight(z);
}

}  // namespace nibble::quant_cuda
