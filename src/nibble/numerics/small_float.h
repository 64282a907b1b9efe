// Rounding to a format with fewer mantissa and exponent bits; shared by the 8-bit formats and binary16.
#pragma once

#include "nibble/numerics/portable.h"

namespace nibble::detail {

/// Round-to-nearest-even to a small float with `kMantissa` mantissa bits and exponent bias `kBias`, saturating
/// to `max_code`; returns the magnitude code. a is |x| and not NaN.
template <int kMantissa, int kBias>
NIBBLE_FN std::uint32_t small_float_magnitude(float a, std::uint32_t max_code) {
  constexpr int kShift = 23 - kMantissa;
  constexpr int kMinExponent = 1 - kBias;  // of the smallest normal
  const std::uint32_t u = float_bits(a);
  std::uint32_t code = 0;
  if (a < exp2_int(kMinExponent)) {
    // Subnormal: adding 2^(23 + lsb exponent) lets the FPU round |x| to a multiple of the lsb, ties to even.
    constexpr int kMagic = 23 + kMinExponent - kMantissa;
    code = float_bits(a + exp2_int(kMagic)) - float_bits(exp2_int(kMagic));
  } else {
    const std::uint32_t rounded = u + ((1u << (kShift - 1)) - 1u) + ((u >> kShift) & 1u);
    code = (rounded >> kShift) - (static_cast<std::uint32_t>(127 - kBias) << kMantissa);
  }
  return code < max_code ? code : max_code;
}

}  // namespace nibble::detail
