// The derivative of DGE's stand-in for the E2M1 staircase at one element (quant/dge.h), shared by the devices: basic
// operations alone, so that each gives the same bits.
#pragma once

#include <algorithm>

#include "nibble/numerics/e2m1.h"

#if defined(__CUDACC__)
#define NIBBLE_DGE_FN __host__ __device__ __forceinline__
#else
#define NIBBLE_DGE_FN [[gnu::always_inline]] inline
#endif

namespace nibble {

/// The numbers of a call that are the same for every element.
struct DgeFactors {
  float slope;     ///< 1/k
  float exponent;  ///< 1/k - 1
  float clip;
  float at_middle;  ///< f' at t = 0
};

inline DgeFactors dge_factors(float k, float clip) {
  const float slope = 1.0f / k;
  return {slope, slope - 1.0f, clip, k > 1 ? clip : std::min(slope, clip)};
}

namespace detail {

/// |t| for |x| = a <= 6: how far a is from the middle of its grid interval, in half intervals. Exact: the intervals
/// are as long as the grid step of a's binade and start at its multiples.
NIBBLE_DGE_FN float distance_to_middle(float a) {
  const std::uint32_t binade = float_bits(a < 1.0f ? 1.0f : a) & 0x7F80'0000u;
  const float intervals = a * bits_float(0x7F80'0000u - binade);  // a / step: binade 2^e has step 2^(e - 1)
  const float u = intervals - static_cast<float>(static_cast<std::int32_t>(intervals));
  const float t = 2.0f * u - 1.0f;
  return float_abs(t);
}

/// n / d for |n| < 1/2 and d from 1 to 4, correctly rounded. On a GPU these are the steps that a division takes anyway,
/// but without its test for exponents out of range, a branch that would keep elements from overlapping.
NIBBLE_DGE_FN float quotient(float n, float d) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  r = __fmaf_rn(r, __fmaf_rn(-d, r, 1.0f), r);
  const float q = n * r;
  return __fmaf_rn(r, __fmaf_rn(-d, q, n), q);
#else
  return n / d;
#endif
}

/// log2(m 2^e) = e + log2(m) with m in [sqrt(1/2), sqrt(2)) and log2(m) = 2 / ln 2 * atanh((m - 1) / (m + 1)); the
/// series is cut after the ninth power, where |s| < 0.172 leaves 2e-9. x is normal and positive.
NIBBLE_DGE_FN float log2_series(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::int32_t e = static_cast<std::int32_t>(bits - 0x3F35'04F3u) >> 23;  // bits of sqrt(1/2)
  const float m = bits_float(bits - (static_cast<std::uint32_t>(e) << 23));
  const float s = quotient(m - 1.0f, m + 1.0f);
  const float s2 = s * s;
  const float series =
      s * (2.885390082f + s2 * (0.9617966940f + s2 * (0.5770780164f + s2 * (0.4121985831f + s2 * 0.3205988980f))));
  return static_cast<float>(e) + series;
}

/// 2^y = 2^n e^(f ln 2), n the integer nearest to y, by the Taylor series to the seventh power: |f ln 2| < 0.347
/// leaves 5e-9. For |y| < 120.
NIBBLE_DGE_FN float exp2_series(float y) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to an integer, which is then in the low bits
  const float shifted = y + kMagic;
  const float f = (y - (shifted - kMagic)) * 0.6931471806f;
  const float series =
      1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6 +
                                          f * (1.0f / 24 + f * (1.0f / 120 + f * (1.0f / 720 + f * (1.0f / 5040)))))));
  const std::uint32_t n = float_bits(shifted) - float_bits(kMagic);
  return bits_float(float_bits(series) + (n << 23));
}

}  // namespace detail

/// f' of a scaled weight, |x| bounded to 6.
NIBBLE_DGE_FN float dge_element(const DgeFactors& f, float x) {
  const float a = float_abs(x) < kE2M1Max ? float_abs(x) : kE2M1Max;
  const float t = detail::distance_to_middle(a);
  const float power = f.slope * detail::exp2_series(f.exponent * detail::log2_series(t > 0x1p-30f ? t : 0x1p-30f));
  const float bounded = power < f.clip ? power : f.clip;
  return t == 0.0f ? f.at_middle : bounded;
}

}  // namespace nibble
