#include "nibble/quant/cpu/four_bit.h"

#include <algorithm>

#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/int4.h"
#include "nibble/quant/cpu/e2m1_lanes.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

/// 1 where the upper of two neighbouring magnitudes is taken, else 0. `odd` is the last bit of the lower one's code.
template <Tie tie>
NIBBLE_INLINE std::int32_t goes_up(float a, float midpoint, std::int32_t odd, bool negative) {
  const std::int32_t above = a > midpoint ? 1 : 0;
  const std::int32_t tied = a == midpoint ? 1 : 0;
  if constexpr (tie == Tie::Even) return above | (tied & odd);
  if constexpr (tie == Tie::Up) return above | (tied & (negative ? 0 : 1));
  return tie == Tie::Away ? above | tied : above;
}

template <Tie tie>
NIBBLE_INLINE std::uint8_t with_sign(std::int32_t m, bool negative) {
  const bool signed_code = negative && !(tie == Tie::Up && m == 0);
  return static_cast<std::uint8_t>(m | (signed_code ? 8 : 0));
}

struct Int4Format {
  template <Tie tie>
  NIBBLE_INLINE std::uint8_t code(float z) const {
    const bool negative = sign_is_kept(z);
    const float a = float_abs(z) < kInt4Max ? float_abs(z) : kInt4Max;  // NaN saturates
    const std::int32_t low = static_cast<std::int32_t>(a);
    const std::int32_t m = low + goes_up<tie>(a, static_cast<float>(low) + 0.5f, low & 1, negative);
    return with_sign<tie>(m, negative);
  }
};

/// Codes above zero are exponents, so the code follows from the bits of a: half its place is added to round up.
struct E3M0Format {
  float least;

  template <Tie tie>
  NIBBLE_INLINE std::uint8_t code(float z) const {
    const bool negative = sign_is_kept(z);
    const float a = float_abs(z) < kE3M0Max ? float_abs(z) : kE3M0Max;  // NaN saturates
    const bool under = a < least;
    const std::int32_t exponent = static_cast<std::int32_t>(float_bits(under ? least : a) >> 23);
    const std::int32_t high = exponent - 124 + (under ? 0 : 1);
    const std::int32_t low = under ? 0 : high - 1;
    const float power = bits_float(static_cast<std::uint32_t>(exponent) << 23);
    const float midpoint = power * (under ? 0.5f : 1.5f);
    return with_sign<tie>(goes_up<tie>(a, midpoint, low & 1, negative) != 0 ? high : low, negative);
  }
};

template <Tie tie, class Format, class Scaled>
NIBBLE_INLINE void row(Format format, const float* __restrict y, Scaled scaled, std::int64_t n,
                       std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) codes[i] = format.template code<tie>(scaled(y, i));
}

template <class Format, class Scaled>
NIBBLE_INLINE void row_by_rule(Format format, const float* y, Scaled scaled, Rounding rounding, std::int64_t n,
                               std::uint8_t* codes) {
  switch (rounding) {
    case Rounding::NearestEven: return row<Tie::Even>(format, y, scaled, n, codes);
    case Rounding::NearestUp: return row<Tie::Up>(format, y, scaled, n, codes);
    case Rounding::NearestZero: return row<Tie::Zero>(format, y, scaled, n, codes);
    case Rounding::NearestAway: return row<Tie::Away>(format, y, scaled, n, codes);
    default: return;
  }
}

NIBBLE_SIMD void int4_by_scalar(const float* y, float m, Rounding rounding, std::int64_t n, std::uint8_t* codes) {
  row_by_rule(Int4Format{}, y, ByScalar{m}, rounding, n, codes);
}
NIBBLE_SIMD void int4_by_column(const float* y, const float* m, Rounding rounding, std::int64_t n,
                                std::uint8_t* codes) {
  row_by_rule(Int4Format{}, y, ByColumn{m}, rounding, n, codes);
}
NIBBLE_SIMD void e3m0_by_scalar(const float* y, float m, float least, Rounding rounding, std::int64_t n,
                                std::uint8_t* codes) {
  row_by_rule(E3M0Format{least}, y, ByScalar{m}, rounding, n, codes);
}
NIBBLE_SIMD void e3m0_by_column(const float* y, const float* m, float least, Rounding rounding, std::int64_t n,
                                std::uint8_t* codes) {
  row_by_rule(E3M0Format{least}, y, ByColumn{m}, rounding, n, codes);
}

template <class Scaled>
NIBBLE_INLINE void reference_row(const float* __restrict y, const float* __restrict reference, Scaled scaled,
                                 std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = scaled(y, i);
    const float r = scaled(reference, i);
    const bool negative = sign_is_kept(z);
    const float a = e2m1_bounded(z);
    const std::int32_t binade = binade_of(a);
    const float t = a * places_per_unit(binade);
    const std::int32_t low = static_cast<std::int32_t>(t);
    const float middle = (static_cast<float>(low) + 0.5f) * bits_float(static_cast<std::uint32_t>(126 + binade) << 23);
    const bool upper = r > (negative ? -middle : middle);
    const bool away = t != static_cast<float>(low) && upper != negative;
    codes[i] = static_cast<std::uint8_t>(code_of(low + (away ? 1 : 0), binade, z));
  }
}

NIBBLE_SIMD void reference_by_scalar(const float* y, const float* reference, float m, std::int64_t n,
                                     std::uint8_t* codes) {
  reference_row(y, reference, ByScalar{m}, n, codes);
}
NIBBLE_SIMD void reference_by_column(const float* y, const float* reference, const float* m, std::int64_t n,
                                     std::uint8_t* codes) {
  reference_row(y, reference, ByColumn{m}, n, codes);
}

NIBBLE_INLINE float int4_value(std::int32_t code) {
  const float magnitude = static_cast<float>(code & 7);
  return bits_float(float_bits(magnitude) | static_cast<std::uint32_t>(code & 8) << 28);
}
NIBBLE_INLINE float e3m0_value(std::int32_t code) {
  const std::int32_t m = code & 7;
  const std::uint32_t magnitude = m == 0 ? 0u : static_cast<std::uint32_t>(m + 124) << 23;
  return bits_float(magnitude | static_cast<std::uint32_t>(code & 8) << 28);
}

}  // namespace

void encode_int4(const float* y, Multiplier multiplier, Rounding rounding, std::int64_t n, std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    int4_by_column(y, multiplier.each, rounding, n, codes);
  } else {
    int4_by_scalar(y, multiplier.scalar, rounding, n, codes);
  }
}

void encode_e3m0(const float* y, Multiplier multiplier, Rounding rounding, int log_steps, std::int64_t n,
                 std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    e3m0_by_column(y, multiplier.each, e3m0_least(log_steps), rounding, n, codes);
  } else {
    e3m0_by_scalar(y, multiplier.scalar, e3m0_least(log_steps), rounding, n, codes);
  }
}

void encode_e2m1_reference(const float* y, const float* reference, Multiplier multiplier, std::int64_t n,
                           std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    reference_by_column(y, reference, multiplier.each, n, codes);
  } else {
    reference_by_scalar(y, reference, multiplier.scalar, n, codes);
  }
}

NIBBLE_SIMD void decode_int4(const std::uint8_t* __restrict packed, std::int64_t n, float* __restrict out) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    out[2 * j] = int4_value(packed[j]);
    out[2 * j + 1] = int4_value(packed[j] >> 4);
  }
  if (n % 2 != 0) out[n - 1] = int4_value(packed[n / 2]);
}

NIBBLE_SIMD void decode_e3m0(const std::uint8_t* __restrict packed, std::int64_t n, float* __restrict out) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    out[2 * j] = e3m0_value(packed[j]);
    out[2 * j + 1] = e3m0_value(packed[j] >> 4);
  }
  if (n % 2 != 0) out[n - 1] = e3m0_value(packed[n / 2]);
}

}  // namespace nibble::quant_cpu
