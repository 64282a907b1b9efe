// E2M1 rounding in forms without branches, for the bodies of loops that a compiler turns into vector code.
//
// The grid step is half the power of two below |x| (1/2 below 1), so a rounded magnitude is a number of `places`, 0 to
// 4, in steps of its binade, and every binade holds two codes.
#pragma once

#include "nibble/numerics/e2m1.h"
#include "nibble/quant/cpu/multiplier.h"

namespace nibble::quant_cpu {

/// |z|, at most 6; NaN counts as 6.
NIBBLE_INLINE float e2m1_bounded(float z) { return float_abs(z) < kE2M1Max ? float_abs(z) : kE2M1Max; }

/// floor(log2 a) for a >= 1, else 0. The grid step there is 2^(binade - 1), up to a = 8.
NIBBLE_INLINE std::int32_t binade_of(float a) {
  return static_cast<std::int32_t>(float_bits(a < 1.0f ? 1.0f : a) >> 23) - 127;
}
/// 1 / step = 2^(1 - binade).
NIBBLE_INLINE float places_per_unit(std::int32_t binade) {
  return bits_float(static_cast<std::uint32_t>(128 - binade) << 23);
}

/// Whether the code of z carries a sign: not for NaN, which gives +6.
NIBBLE_INLINE bool sign_is_kept(float z) { return float_bits(z) - 0x8000'0000u <= 0x7F80'0000u; }

/// Code of `places` grid steps counted from zero in steps of that binade (0 to 4 places, in a binade above the
/// first 2 to 4), with the sign of z.
NIBBLE_INLINE std::uint32_t code_of(std::int32_t places, std::int32_t binade, float z) {
  return static_cast<std::uint32_t>(places + 2 * binade) | (sign_is_kept(z) ? 8u : 0u);
}

}  // namespace nibble::quant_cpu
