// BF16: sign, 8 exponent bits, 7 mantissa bits; the upper half of an IEEE binary32.
#pragma once

#include "nibble/numerics/portable.h"

namespace nibble {

/// Storage type of a BF16 value; arithmetic is done in float.
struct bf16 {
  std::uint16_t bits = 0;

  friend NIBBLE_FN bool operator==(bf16 a, bf16 b) { return a.bits == b.bits; }
};

NIBBLE_FN float bf16_decode(bf16 x) { return bits_float(static_cast<std::uint32_t>(x.bits) << 16); }

/// Round to nearest, ties to even. NaN stays NaN (quietened), overflow goes to infinity.
NIBBLE_FN bf16 bf16_encode(float x) {
  const std::uint32_t u = float_bits(x);
  const std::uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (u >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((u & 0x7FFF'FFFFu) > 0x7F80'0000u ? quiet : rounded)};
}

/// The BF16 value nearest to x, as a float.
NIBBLE_FN float bf16_round(float x) { return bf16_decode(bf16_encode(x)); }

/// Conversions under one name for code that is generic over the storage type.
NIBBLE_FN float to_float(float x) { return x; }
NIBBLE_FN float to_float(bf16 x) { return bf16_decode(x); }
template <class T>
NIBBLE_FN T from_float(float x);
template <>
NIBBLE_FN float from_float<float>(float x) {
  return x;
}
template <>
NIBBLE_FN bf16 from_float<bf16>(float x) {
  return bf16_encode(x);
}

}  // namespace nibble
