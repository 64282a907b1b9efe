// IEEE 754 binary16: sign, 5 exponent bits (bias 15), 10 mantissa bits; max 65504, smallest subnormal 2^-24.
// A value is stored as std::uint16_t (DType::F16); arithmetic is done in float.
#pragma once

#include "nibble/numerics/small_float.h"

namespace nibble {

inline constexpr float kFp16Max = 65504.0f;

namespace detail {

NIBBLE_FN std::uint16_t fp16_encode_to(float x, std::uint32_t max_code) {
  const std::uint32_t u = float_bits(x);
  const std::uint32_t magnitude = small_float_magnitude<10, 15>(float_abs(x), max_code);
  const std::uint32_t quiet = 0x7E00u | ((u >> 13) & 0x1FFu);
  return static_cast<std::uint16_t>(((u >> 16) & 0x8000u) | (float_is_nan(x) ? quiet : magnitude));
}

}  // namespace detail

/// Round to nearest, ties to even; from 65520 on to infinity. NaN stays NaN (quietened, upper payload kept).
NIBBLE_FN std::uint16_t fp16_encode(float x) { return detail::fp16_encode_to(x, 0x7C00u); }

/// Round to nearest even, saturating to +-65504 (infinity too); NaN -> NaN.
NIBBLE_FN std::uint16_t fp16_encode_saturate(float x) { return detail::fp16_encode_to(x, 0x7BFFu); }

/// Exact; NaN is quietened.
NIBBLE_FN float fp16_decode(std::uint16_t code) {
  const std::uint32_t sign = static_cast<std::uint32_t>(code & 0x8000u) << 16;
  const std::uint32_t m = code & 0x7FFFu;
  const std::uint32_t wide = m << 13;
  // Subnormals through the integer unit: as a subnormal float the same bits would cost an assist on x86.
  const std::uint32_t bits = m > 0x7C00u    ? wide | 0x7FC0'0000u
                             : m == 0x7C00u ? 0x7F80'0000u
                             : m < 0x400u   ? float_bits(static_cast<float>(static_cast<std::int32_t>(m)) * 0x1p-24f)
                                            : wide + (112u << 23);
  return bits_float(sign | bits);
}

}  // namespace nibble
