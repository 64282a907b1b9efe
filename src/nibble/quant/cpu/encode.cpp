#include "nibble/quant/cpu/encode.h"

#include <algorithm>
#include <cstring>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/small_float_code.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

/// The E2M1 magnitudes over their codes lie on three straight lines, so that in units of one code
///
///   g(a) = min(2 a, a + 2, a / 2 + 4)      g(0), g(0.5), g(1), ..., g(6) = 0, 1, 2, ..., 7
///
/// and rounding a to the grid is rounding g to an integer. In fixed point with 26 fractional bits g is exact from
/// the first midpoint on (the last bit of a float >= 0.25 is worth 2^-25 or more), which decides every tie.
template <Tie tie>
NIBBLE_INLINE std::uint32_t e2m1_code(float z) {
  if constexpr (tie == Tie::Even) return e2m1_code_even(z);
  constexpr std::int32_t kOne = 1 << 26;
  const float a = float_abs(z) < kE2M1Max ? float_abs(z) : kE2M1Max;  // NaN saturates
  const std::int32_t v = static_cast<std::int32_t>(a * static_cast<float>(kOne));
  const std::int32_t g = std::min(std::min(2 * v, v + 2 * kOne), (v >> 1) + 4 * kOne);
  const auto negative = static_cast<std::int32_t>(sign_is_kept(z));
  std::int32_t half = kOne / 2;  // a tie goes up
  if constexpr (tie == Tie::Zero) half -= 1;
  if constexpr (tie == Tie::Up) half -= negative;
  const std::int32_t code = (g + half) >> 26;
  const std::int32_t sign = tie == Tie::Up && code == 0 ? 0 : negative;
  return static_cast<std::uint32_t>(code | sign << 3);
}

template <Tie tie, class Scaled>
NIBBLE_INLINE void e2m1_row(const float* __restrict y, Scaled scaled, std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(e2m1_code<tie>(scaled(y, i)));
}

template <class Scaled>
NIBBLE_INLINE void e2m1_row_by_rule(const float* y, Scaled scaled, Rounding rounding, std::int64_t n,
                                    std::uint8_t* codes) {
  switch (rounding) {
    case Rounding::NearestEven: return e2m1_row<Tie::Even>(y, scaled, n, codes);
    case Rounding::NearestUp: return e2m1_row<Tie::Up>(y, scaled, n, codes);
    case Rounding::NearestZero: return e2m1_row<Tie::Zero>(y, scaled, n, codes);
    case Rounding::NearestAway: return e2m1_row<Tie::Away>(y, scaled, n, codes);
    case Rounding::Stochastic:
    case Rounding::Stochastic8:
    case Rounding::Eden:
    case Rounding::Reference: return;
  }
}

NIBBLE_SIMD void e2m1_by_scalar(const float* y, float m, Rounding rounding, std::int64_t n, std::uint8_t* codes) {
  e2m1_row_by_rule(y, ByScalar{m}, rounding, n, codes);
}
NIBBLE_SIMD void e2m1_by_column(const float* y, const float* m, Rounding rounding, std::int64_t n,
                                std::uint8_t* codes) {
  e2m1_row_by_rule(y, ByColumn{m}, rounding, n, codes);
}

template <int kMantissa, int kBias>
NIBBLE_INLINE std::uint32_t fp8_code(float z, float max) {
  const float a = float_abs(z) < max ? float_abs(z) : max;
  const std::uint32_t bits = float_bits(z);
  const bool nan = (bits & 0x7FFF'FFFFu) > 0x7F80'0000u;
  return (nan ? 0x7Fu : small_float_code<kMantissa, kBias>(a)) | ((bits >> 24) & 0x80u);
}

template <int kMantissa, int kBias, class Scaled>
NIBBLE_INLINE void fp8_row(const float* __restrict y, Scaled scaled, float max, std::int64_t n,
                           std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    codes[i] = static_cast<std::uint8_t>(fp8_code<kMantissa, kBias>(scaled(y, i), max));
  }
}

NIBBLE_SIMD void e4m3_by_scalar(const float* y, float m, std::int64_t n, std::uint8_t* codes) {
  fp8_row<3, 7>(y, ByScalar{m}, kE4M3Max, n, codes);
}
NIBBLE_SIMD void e4m3_by_column(const float* y, const float* m, std::int64_t n, std::uint8_t* codes) {
  fp8_row<3, 7>(y, ByColumn{m}, kE4M3Max, n, codes);
}
NIBBLE_SIMD void e5m2_by_scalar(const float* y, float m, std::int64_t n, std::uint8_t* codes) {
  fp8_row<2, 15>(y, ByScalar{m}, kE5M2Max, n, codes);
}
NIBBLE_SIMD void e5m2_by_column(const float* y, const float* m, std::int64_t n, std::uint8_t* codes) {
  fp8_row<2, 15>(y, ByColumn{m}, kE5M2Max, n, codes);
}

}  // namespace

void encode_e2m1(const float* y, Multiplier multiplier, Rounding rounding, std::int64_t n, std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    e2m1_by_column(y, multiplier.each, rounding, n, codes);
  } else {
    e2m1_by_scalar(y, multiplier.scalar, rounding, n, codes);
  }
}

void encode_e4m3(const float* y, Multiplier multiplier, std::int64_t n, std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    e4m3_by_column(y, multiplier.each, n, codes);
  } else {
    e4m3_by_scalar(y, multiplier.scalar, n, codes);
  }
}

void encode_e5m2(const float* y, Multiplier multiplier, std::int64_t n, std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    e5m2_by_column(y, multiplier.each, n, codes);
  } else {
    e5m2_by_scalar(y, multiplier.scalar, n, codes);
  }
}

NIBBLE_SIMD void encode_bf16(const float* __restrict y, std::int64_t n, bf16* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) codes[i] = bf16_encode(y[i]);
}

NIBBLE_SIMD void pack_nibbles(const std::uint8_t* __restrict codes, std::int64_t n, std::uint8_t* __restrict packed) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    std::uint16_t pair;  // little-endian: the even element is the low byte
    std::memcpy(&pair, codes + 2 * j, sizeof(pair));
    packed[j] = static_cast<std::uint8_t>(pair | pair >> 4);
  }
  if (n % 2 != 0) packed[n / 2] = codes[n - 1];
}

void pack_bits(const std::uint8_t* flags, std::int64_t n, std::uint8_t* bits) {
  for (std::int64_t i = 0; i < n; i += 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, flags + i, static_cast<std::size_t>(std::min<std::int64_t>(8, n - i)));
    // The product gathers the lowest bits of the eight bytes in the top byte.
    bits[i / 8] = static_cast<std::uint8_t>(eight * 0x0102'0408'1020'4080ull >> 56);
  }
}

}  // namespace nibble::quant_cpu
