// Gradients as E4M3 codes under one scale that all ranks share: what travels when gradients are exchanged in FP8
// (FP8-LM, arXiv 2310.18313, section 2.1; MS-AMP's all-reduce).
//
//   amax   the largest |x| of a tensor on any rank; NaN counts as infinity
//   sf     2^floor(log2(448 / amax)) / divisor; the exponent is held to [-126, 126], amax 0 has power 0
//   code   E4M3(x * sf), to nearest even
//   sum    E4M3(code_0 + code_1 + ...) in F32, in the order of ranks; beyond 448 it saturates, and is counted
//   x      sum * (1 / sf); NaN everywhere where amax is not finite: an infinity is not lost
//
// With the divisor sqrt(R) the R ranks' codes are at most 448 / sqrt(R): sums of R values that go separate ways fit,
// those of equal ones saturate from R = 2 on where they are near the largest. Other divisors: train/gradient_scaling.h.
#pragma once

#include <cmath>

#include "nibble/numerics/fp8.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// amax (F32 [1]) = max(amax, max |x|); x is F32. For Max over ranks no value may be NaN, so NaN becomes infinity.
void update_amax(const Tensor& x, const Tensor& amax);
/// codes (U8) of x (F32); divisor at least 1.
void encode_gradient(const Tensor& x, const Tensor& amax, float divisor, const Tensor& codes);
/// sum [n] of codes [ranks * n], rank after rank; `saturated` (I32 [1]) grows by the elements that did.
void add_gradient_codes(const Tensor& codes, int ranks, const Tensor& sum, const Tensor& saturated);
/// x (F32) of the summed codes.
void decode_gradient(const Tensor& codes, const Tensor& amax, float divisor, const Tensor& x);

/// sf and 1 / sf.
struct GradientScale {
  float sf;
  float inv;
};

#if defined(__CUDACC__)
__host__ __device__
#endif
    inline GradientScale
    gradient_scale(float amax, float divisor) {
  if (!float_is_finite(amax)) return {1.0f, bits_float(0x7FC0'0000u)};
  if (amax == 0) return {1.0f / divisor, divisor};
  // 448 = 1.75 * 2^8: the quotient is below 2^(8 - e) exactly where amax has a mantissa above 1.75.
  const auto e = static_cast<int>((float_bits(amax) >> 23) & 0xFFu) - 127;
  const bool above = (float_bits(amax) & 0x7F'FFFFu) > 0x60'0000u;
  int power = 8 - e - (above ? 1 : 0);  // amax below 2^-126 has e = -127: the bound holds
  power = power < -126 ? -126 : power > 126 ? 126 : power;
  return {exp2_int(power) / divisor, exp2_int(-power) * divisor};
}

}  // namespace nibble
