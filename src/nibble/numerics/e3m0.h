// E3M0, powers of two and zero: sign bit 3, three exponent bits; no infinity, no NaN. LUQ's FP4 [1,3,0] (Chmiel et
// al. 2021, "Accurate neural training with 4-bit matrix multiplications at standard formats").
//
//   code (low 3 bits)   0     1     2     3    4    5    6    7
//   magnitude           0    .25   .5     1    2    4    8   16
//   midpoint to next  .125  .375  .75   1.5    3    6   12    -      (arithmetic means)
//
// `log_steps` m from 1 to 6 drops the smallest magnitudes: the least that is left is 16 / 2^m, and the midpoint below
// it half of that. All conversions saturate to +-16.
#pragma once

#include "nibble/numerics/rounding.h"

namespace nibble {

inline constexpr float kE3M0Max = 16.0f;
inline constexpr int kE3M0LogSteps = 6;  ///< of the whole format

/// The value of a code; code 8 is -0.
NIBBLE_FN float e3m0_decode(std::uint8_t code) {
  const int m = code & 7;
  const float magnitude = m == 0 ? 0.0f : exp2_int(m - 3);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// The least magnitude above zero, 16 / 2^log_steps. Its code is 7 - log_steps.
NIBBLE_FN float e3m0_least(int log_steps) { return exp2_int(4 - log_steps); }

/// Nearest code under the tie rule; TieEven goes from an even code down, from an odd one up (so to zero where the
/// next magnitude is not code 1). Signs and NaN as e2m1_encode has them: the sign of x is kept also where the magnitude
/// rounds to zero, except that TieUp drops it there; NaN saturates to +16.
template <Tie tie>
NIBBLE_FN std::uint8_t e3m0_encode(float x, int log_steps = kE3M0LogSteps) {
  if (float_is_nan(x)) return 7;
  const bool negative = float_signbit(x);
  const float a = float_abs(x) < kE3M0Max ? float_abs(x) : kE3M0Max;
  const float least = e3m0_least(log_steps);
  const int low = a < least ? 0 : log2_floor(a) + 3;
  const int high = a < least ? 7 - log_steps : low + 1;
  const float midpoint = a < least ? 0.5f * least : 1.5f * pow2_floor(a);
  const bool away = tie == Tie::Away || (tie == Tie::Up && !negative) || (tie == Tie::Even && low % 2 != 0);
  const int m = (away ? a >= midpoint : a > midpoint) ? high : low;
  const bool drop_sign = tie == Tie::Up && m == 0;
  return static_cast<std::uint8_t>(m | (negative && !drop_sign ? 8 : 0));
}

/// LUQ's logarithmic unbiased rounding: with lo <= |x| <= hi the grid neighbours, hi iff u < (|x| - lo) / (hi - lo),
/// u = random24 / 2^24. Below the least magnitude the neighbours are zero and that magnitude. E[value] = x for
/// |x| <= 16, to 2^-24 of hi - lo; beyond, saturates. NaN gives +16.
NIBBLE_FN std::uint8_t e3m0_encode_stochastic(float x, std::uint32_t random24, int log_steps = kE3M0LogSteps) {
  if (float_is_nan(x)) return 7;
  const float a = float_abs(x) < kE3M0Max ? float_abs(x) : kE3M0Max;
  const float least = e3m0_least(log_steps);
  const bool under = a < least;
  const float lo = under ? 0.0f : pow2_floor(a);
  const float p = (a - lo) / (under ? least : lo);  // exact: the interval above a power of two is as long as it
  const float u = static_cast<float>(random24 & 0xFF'FFFFu) * 0x1p-24f;
  const int low = under ? 0 : log2_floor(a) + 3;
  const int high = under ? 7 - log_steps : low + 1;
  return static_cast<std::uint8_t>((u < p ? high : low) | (float_signbit(x) ? 8 : 0));
}

}  // namespace nibble
