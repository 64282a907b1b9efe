// Int4, symmetric four-bit integers: sign bit 3, magnitude 0..7 in the low three bits; code 8 is -0. (E1M2 has the
// same grid at half the size.)
//
// All conversions saturate to +-7. Used by LUQ (Chmiel et al. 2021) for weights and activations.
#pragma once

#include "nibble/numerics/rounding.h"

namespace nibble {

inline constexpr float kInt4Max = 7.0f;

/// The value of a code, an integer from -7 to 7.
NIBBLE_FN int int4_integer(std::uint8_t code) {
  const int magnitude = code & 7;
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// The value of a code; code 8 is -0.
NIBBLE_FN float int4_decode(std::uint8_t code) {
  const float magnitude = static_cast<float>(code & 7);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// Nearest code under the tie rule. Signs and NaN as e2m1_encode has them: the sign of x is kept also where the
/// magnitude rounds to zero, except that TieUp takes [-0.5, -0] to +0; NaN saturates to +7.
template <Tie tie>
NIBBLE_FN std::uint8_t int4_encode(float x) {
  if (float_is_nan(x)) return 7;
  const bool negative = float_signbit(x);
  const float a = float_abs(x) < kInt4Max ? float_abs(x) : kInt4Max;
  const int low = static_cast<int>(a);
  const float rest = a - static_cast<float>(low);  // exact
  const bool away = tie == Tie::Away || (tie == Tie::Up && !negative) || (tie == Tie::Even && low % 2 != 0);
  const int m = low + ((away ? rest >= 0.5f : rest > 0.5f) ? 1 : 0);
  const bool drop_sign = tie == Tie::Up && m == 0;
  return static_cast<std::uint8_t>(m | (negative && !drop_sign ? 8 : 0));
}

/// Ideal stochastic rounding: away from zero iff u < |x| - floor(|x|), u = random24 / 2^24. E[value] = x for |x| <= 7;
/// beyond, saturates. NaN gives +7.
NIBBLE_FN std::uint8_t int4_encode_stochastic(float x, std::uint32_t random24) {
  if (float_is_nan(x)) return 7;
  const float a = float_abs(x) < kInt4Max ? float_abs(x) : kInt4Max;
  const int low = static_cast<int>(a);
  const float p = a - static_cast<float>(low);  // exact
  const float u = static_cast<float>(random24 & 0xFF'FFFFu) * 0x1p-24f;
  return static_cast<std::uint8_t>((low + (u < p ? 1 : 0)) | (float_signbit(x) ? 8 : 0));
}

}  // namespace nibble
