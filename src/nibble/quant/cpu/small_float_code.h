// Round to nearest even to a small float in a form without branches, which compilers turn into vector code.
#pragma once

#include "nibble/quant/cpu/e2m1_lanes.h"

namespace nibble::quant_cpu {

/// The magnitude code of a in [0, max], the largest value: kMantissa mantissa bits, exponent bias kBias. One float
/// addition rounds: with 2^e the binade of a (not below that of the smallest normal) the sum a + 2^(e + 23 - mantissa
/// bits) has a's wanted last place as its own, so the FPU rounds, and the low bits of the sum count places.
template <int kMantissa, int kBias>
NIBBLE_INLINE std::uint32_t small_float_code(float a) {
  constexpr int kMinExponent = 1 - kBias;
  constexpr std::uint32_t kShift = 23 - kMantissa;
  const float normal = a < exp2_int(kMinExponent) ? exp2_int(kMinExponent) : a;
  const std::uint32_t binade = float_bits(normal) & 0x7F80'0000u;
  const std::uint32_t magic = binade + (kShift << 23);
  const std::uint32_t places = float_bits(a + bits_float(magic)) - magic;
  return places + ((binade - float_bits(exp2_int(kMinExponent))) >> kShift);
}

/// E2M1 code of z, ties to even; NaN gives +6.
NIBBLE_INLINE std::uint32_t e2m1_code_even(float z) {
  return small_float_code<1, 1>(e2m1_bounded(z)) | (sign_is_kept(z) ? 8u : 0u);
}

}  // namespace nibble::quant_cpu
