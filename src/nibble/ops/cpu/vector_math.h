// Elementary functions as plain branch-free arithmetic, so that a compiler vectorises a loop that calls them, and
// so that every instruction set gives the same bits (the build sets -ffp-contract=off; libm promises neither).
#pragma once

#include "nibble/numerics/portable.h"

namespace nibble {

/// e^x within 1 ulp (of the subnormal grid 2^-149 where the result is subnormal). e^0 = 1 and e^-inf = 0 exactly; +inf
/// from 88.7229 on; NaN gives NaN. Meant for NIBBLE_SIMD loops: always inlined, no branch, no table.
[[gnu::always_inline]] inline float exp_approx(float x) {
  // Beyond these the result is 0 or +inf anyway; the scale factors below stay in range.
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  constexpr float kMagic = 0x1.8p23f;
  const float shifted = x * 0x1.715476p+0f + kMagic;
  const float n = shifted - kMagic;
  // ln 2 in two parts; the first has 9 bits, so that n * kLn2High is exact without a fused multiply-add.
  constexpr float kLn2High = 0x1.63p-1f;
  constexpr float kLn2Low = -0x1.bd0106p-13f;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  // Minimax polynomial of (e^r - 1 - r) / r^2 (Remez; relative error of the whole 3e-9).
  float p = 0x1.6a244cp-10f;
  p = p * r + 0x1.1239d4p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  const float y = (p * (r * r) + r) + 1.0f;
  // 2^n in two factors: one alone cannot reach n = 128 or the subnormals.
  const auto e = static_cast<std::int32_t>(float_bits(shifted) - float_bits(kMagic));
  const std::int32_t half = e >> 1;
  const float low = bits_float(static_cast<std::uint32_t>(half + 127) << 23);
  const float high = bits_float(static_cast<std::uint32_t>(e - half + 127) << 23);
  return y * low * high;
}

/// 1 / (1 + e^-x); 0 where the true value would be subnormal (x < -88.7), never NaN for finite x.
[[gnu::always_inline]] inline float sigmoid_approx(float x) { return 1.0f / (1.0f + exp_approx(-x)); }

}  // namespace nibble
