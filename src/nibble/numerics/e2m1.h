// E2M1, the FP4 element: sign bit 3, two exponent bits, one mantissa bit, bias 1; no infinity, no NaN.
//
//   code (low 3 bits)   0    1    2    3    4    5    6    7
//   magnitude           0   0.5   1   1.5   2    3    4    6
//   midpoint to next   .25  .75  1.25 1.75 2.5  3.5   5    -
//
// All conversions saturate to +-6. Specification: docs/recipes.md; OCP MX 1.0 for the format.
#pragma once

#include "nibble/numerics/rounding.h"

namespace nibble {

inline constexpr float kE2M1Max = 6.0f;

/// Twice the magnitude of each code: 2 x E2M1 is an integer, which is what makes FP4 products exact in int32.
NIBBLE_FN int e2m1_twice(std::uint8_t code) {
  const int m = code & 7;
  const int magnitude = m < 4 ? m : (2 + (m & 1)) << ((m >> 1) - 1);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// The value of a code; code 8 is -0.
NIBBLE_FN float e2m1_decode(std::uint8_t code) {
  const float magnitude = 0.5f * static_cast<float>(e2m1_twice(code & 7));
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// Nearest code under the tie rule; the sign of x is kept also where the magnitude rounds to zero, except
/// that TieUp takes [-0.25, -0] to +0 and NaN saturates to +6, as the look-up kernel of
/// Wang et al. does.
template <Tie tie>
NIBBLE_FN std::uint8_t e2m1_encode(float x) {
  const float a = float_abs(x);
  const bool negative = float_signbit(x);
  // A midpoint goes up in magnitude (>=) or not (>): by the rule, the sign, or the parity of the code below it.
  const bool away = tie == Tie::Away || (tie == Tie::Up && !negative);
  const bool odd_below = tie == Tie::Even || away;  // from an odd code up to the even one
  const bool even_below = away;                     // from an even code up to the odd one
  int m = 0;
  m += even_below ? (a >= 0.25f) : (a > 0.25f);
  m += odd_below ? (a >= 0.75f) : (a > 0.75f);
  m += even_below ? (a >= 1.25f) : (a > 1.25f);
  m += odd_below ? (a >= 1.75f) : (a > 1.75f);
  m += even_below ? (a >= 2.5f) : (a > 2.5f);
  m += odd_below ? (a >= 3.5f) : (a > 3.5f);
  m += even_below ? (a >= 5.0f) : (a > 5.0f);
  if (float_is_nan(x)) return 7;
  const bool drop_sign = tie == Tie::Up && m == 0;
  return static_cast<std::uint8_t>(m | (negative && !drop_sign ? 8 : 0));
}

/// Grid neighbours of |x| <= 6 as (lo, step): lo <= |x| <= lo + step. The step is that of the binade of |x|.
NIBBLE_FN float e2m1_step(float magnitude) { return magnitude < 2.0f ? 0.5f : magnitude < 4.0f ? 1.0f : 2.0f; }

/// Code of a magnitude that lies on the grid.
NIBBLE_FN std::uint8_t e2m1_code_of_grid(float magnitude) {
  const int twice = static_cast<int>(2.0f * magnitude);
  return static_cast<std::uint8_t>(twice <= 4 ? twice : twice == 6 ? 5 : twice == 8 ? 6 : 7);
}

/// Ideal stochastic rounding: with lo <= |x| <= hi the grid neighbours, hi iff u < (|x|-lo)/(hi-lo), where
/// u = random24 / 2^24 is uniform on [0,1). E[value] = x for |x| <= 6; beyond, saturates. NaN gives +6.
NIBBLE_FN std::uint8_t e2m1_encode_stochastic(float x, std::uint32_t random24) {
  if (float_is_nan(x)) return 7;
  const float a = float_abs(x) < kE2M1Max ? float_abs(x) : kE2M1Max;
  const float step = e2m1_step(a);
  const float t = a / step;  // step is a power of two: exact
  const float lo = static_cast<float>(static_cast<int>(t));
  const float p = t - lo;  // exact
  const float u = static_cast<float>(random24 & 0xFF'FFFFu) * 0x1p-24f;
  const float q = (u < p ? lo + 1.0f : lo) * step;
  return static_cast<std::uint8_t>(e2m1_code_of_grid(q) | (float_signbit(x) ? 8 : 0));
}

/// Stochastic rounding with 8 random bits, bit for bit the software emulation of cvt.rs.satfinite.e2m1x4.f32
/// (spec 0.4): t = |x| + r/256 * step(|x|); floor(t / step(t)) * step(t), at most 6. The mean is low by at most
/// step/256. NaN gives +6.
NIBBLE_FN std::uint8_t e2m1_encode_stochastic8(float x, std::uint32_t random8) {
  if (float_is_nan(x)) return 7;
  const float a = float_abs(x) < 8.0f ? float_abs(x) : 8.0f;  // beyond 8 the result is 6 either way
  // fma(r/256, step, a) with one rounding: the product is exact, so the sum rounds once.
  const float t = a + static_cast<float>(random8 & 0xFFu) * 0x1p-8f * e2m1_step(a);
  const float step = e2m1_step(t);
  const float q = static_cast<float>(static_cast<int>(t / step)) * step;
  return static_cast<std::uint8_t>(e2m1_code_of_grid(q < kE2M1Max ? q : kE2M1Max) | (float_signbit(x) ? 8 : 0));
}

/// The grid neighbour of x nearer to `reference`, the lower one (towards -infinity) on a tie; a value on the grid
/// stays, |x| >= 6 saturates. This is how TetraJet's Q-EMA rounds weights, `reference` being their moving average. The
/// sign of x is kept also where the magnitude becomes zero; NaN gives +6, a NaN reference the lower neighbour.
NIBBLE_FN std::uint8_t e2m1_encode_reference(float x, float reference) {
  if (float_is_nan(x)) return 7;
  const bool negative = float_signbit(x);
  const float a = float_abs(x) < kE2M1Max ? float_abs(x) : kE2M1Max;
  const float step = e2m1_step(a);
  const float lo = static_cast<float>(static_cast<int>(a / step)) * step;
  const float midpoint = negative ? -(lo + 0.5f * step) : lo + 0.5f * step;
  const bool upper = reference > midpoint;
  const bool away = a != lo && upper != negative;  // the upper neighbour of a negative x is the one nearer to zero
  return static_cast<std::uint8_t>(e2m1_code_of_grid(away ? lo + step : lo) | (negative ? 8 : 0));
}

}  // namespace nibble
