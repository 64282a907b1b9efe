// The 8-bit formats: E4M3 ("fn": no infinity, NaN 0x7F/0xFF, max 448), E5M2 (IEEE-like, max 57344) and
// E8M0 (a power-of-two scale 2^(b-127), NaN 0xFF; no zero, no sign).
#pragma once

#include "nibble/numerics/small_float.h"

// (Integers go through int32 to float: AVX2 has no conversion from unsigned.)

namespace nibble {

inline constexpr float kE4M3Max = 448.0f;
inline constexpr float kE5M2Max = 57344.0f;

/// Round to nearest even, saturating to +-448 (infinity too); NaN -> NaN.
NIBBLE_FN std::uint8_t e4m3_encode(float x) {
  const std::uint32_t sign = (float_bits(x) >> 24) & 0x80u;
  if (float_is_nan(x)) return static_cast<std::uint8_t>(sign | 0x7Fu);
  const float a = float_abs(x) < kE4M3Max ? float_abs(x) : kE4M3Max;
  return static_cast<std::uint8_t>(sign | detail::small_float_magnitude<3, 7>(a, 0x7Eu));
}

/// Stochastic rounding of x >= 0: with lo <= x <= hi the neighbouring values, hi iff u < (x - lo) / (hi - lo), where
/// u = random24 / 2^24. E[value] = x up to 448, to 2^-24 of hi - lo; beyond, saturates. NaN -> NaN.
NIBBLE_FN std::uint8_t e4m3_encode_stochastic(float x, std::uint32_t random24) {
  const float a = x < kE4M3Max ? x : kE4M3Max;
  const std::uint32_t binade = float_bits(a < 0x1p-6f ? 0x1p-6f : a) >> 23;  // below 2^-6 the step stays
  const float t = a * bits_float((257u - binade) << 23);                     // over the step, 2^-3 of the binade: exact
  const std::int32_t places = static_cast<std::int32_t>(t);                  // 8 to 15, below 2^-6 0 to 7
  const float p = t - static_cast<float>(places);
  const float u = static_cast<float>(static_cast<std::int32_t>(random24 & 0xFF'FFFFu)) * 0x1p-24f;
  const std::int32_t code = places + 8 * (static_cast<std::int32_t>(binade) - 121) + (u < p ? 1 : 0);
  return static_cast<std::uint8_t>(float_is_nan(x) ? 0x7F : code);
}

NIBBLE_FN float e4m3_decode(std::uint8_t code) {
  const std::uint32_t m = code & 0x7Fu;
  const float magnitude = m == 0x7Fu ? bits_float(0x7FC0'0000u)
                          : m < 8u   ? static_cast<float>(static_cast<std::int32_t>(m)) * 0x1p-9f
                                     : bits_float((m << 20) + (120u << 23));
  return (code & 0x80u) != 0 ? -magnitude : magnitude;
}

/// Round to nearest even, saturating to +-57344 (infinity too: satfinite, as training casts want); NaN -> NaN.
NIBBLE_FN std::uint8_t e5m2_encode(float x) {
  const std::uint32_t sign = (float_bits(x) >> 24) & 0x80u;
  if (float_is_nan(x)) return static_cast<std::uint8_t>(sign | 0x7Fu);
  const float a = float_abs(x) < kE5M2Max ? float_abs(x) : kE5M2Max;
  return static_cast<std::uint8_t>(sign | detail::small_float_magnitude<2, 15>(a, 0x7Bu));
}

NIBBLE_FN float e5m2_decode(std::uint8_t code) {
  const std::uint32_t m = code & 0x7Fu;
  const float magnitude = m > 0x7Cu    ? bits_float(0x7FC0'0000u)
                          : m == 0x7Cu ? bits_float(0x7F80'0000u)
                          : m < 4u     ? static_cast<float>(static_cast<std::int32_t>(m)) * 0x1p-16f
                                       : bits_float((m << 21) + (112u << 23));
  return (code & 0x80u) != 0 ? -magnitude : magnitude;
}

/// 2^(b-127) as a float; b = 0 is the subnormal 2^-127, b = 255 is NaN.
NIBBLE_FN float e8m0_decode(std::uint8_t b) {
  return b == 0xFFu ? bits_float(0x7FC0'0000u) : b == 0 ? 0x1p-127f : bits_float(static_cast<std::uint32_t>(b) << 23);
}

/// The code of exponent e, clamped to [-127, 127].
NIBBLE_FN std::uint8_t e8m0_encode_exponent(int e) {
  return static_cast<std::uint8_t>((e < -127 ? -127 : e > 127 ? 127 : e) + 127);
}

}  // namespace nibble
