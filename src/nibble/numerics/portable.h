// What every numerics header needs to be usable, unchanged, from host code, from CUDA device code and
// in constant expressions.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#define NIBBLE_FN __host__ __device__ constexpr
#else
#define NIBBLE_FN constexpr
#endif

namespace nibble {

NIBBLE_FN std::uint32_t float_bits(float x) { return std::bit_cast<std::uint32_t>(x); }
NIBBLE_FN float bits_float(std::uint32_t u) { return std::bit_cast<float>(u); }
NIBBLE_FN float float_abs(float x) { return bits_float(float_bits(x) & 0x7FFF'FFFFu); }
NIBBLE_FN bool float_is_nan(float x) { return (float_bits(x) & 0x7FFF'FFFFu) > 0x7F80'0000u; }
NIBBLE_FN bool float_is_finite(float x) { return (float_bits(x) & 0x7F80'0000u) != 0x7F80'0000u; }
NIBBLE_FN bool float_signbit(float x) { return (float_bits(x) >> 31) != 0; }

/// 2^e for e in [-126, 127], by placing the exponent field.
NIBBLE_FN float exp2_int(int e) { return bits_float(static_cast<std::uint32_t>(e + 127) << 23); }

/// The largest power of two <= x, for normal positive x: the mantissa is masked away, so no rounded log2
/// can be off by one (spec 0.5).
NIBBLE_FN float pow2_floor(float x) { return bits_float(float_bits(x) & 0x7F80'0000u); }

/// floor(log2 x) for finite x > 0, subnormals included.
NIBBLE_FN int log2_floor(float x) {
  const std::uint32_t u = float_bits(x) & 0x7FFF'FFFFu;
  if (u >= 0x0080'0000u) return static_cast<int>(u >> 23) - 127;
  int e = -150;  // a subnormal is u * 2^-149
  for (std::uint32_t v = u; v != 0; v >>= 1) ++e;
  return e;
}

}  // namespace nibble
