#include "nibble/quant/cpu/stochastic.h"

#include <algorithm>
#include <cstring>

#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/int4.h"
#include "nibble/quant/cpu/e2m1_lanes.h"
#include "nibble/quant/cpu/philox.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

/// uniform24, by way of int32: AVX2 has no conversion from unsigned.
NIBBLE_INLINE float uniform(std::uint32_t word) {
  return static_cast<float>(static_cast<std::int32_t>(word >> 8)) * 0x1p-24f;
}

template <class Scaled>
NIBBLE_INLINE void stochastic_row(const float* __restrict y, Scaled scaled, const std::uint32_t* __restrict words,
                                  std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = scaled(y, i);
    const float a = e2m1_bounded(z);
    const std::int32_t binade = binade_of(a);
    const float t = a * places_per_unit(binade);
    const std::int32_t low = static_cast<std::int32_t>(t);
    const float p = t - static_cast<float>(low);
    codes[i] = static_cast<std::uint8_t>(code_of(low + (uniform(words[i]) < p ? 1 : 0), binade, z));
  }
}

template <class Scaled>
NIBBLE_INLINE void stochastic8_row(const float* __restrict y, Scaled scaled, const std::uint8_t* __restrict bytes,
                                   std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = scaled(y, i);
    const float a = float_abs(z) < 8.0f ? float_abs(z) : 8.0f;
    const std::int32_t steep = std::min(binade_of(a), 2);
    const float step = bits_float(static_cast<std::uint32_t>(126 + steep) << 23);
    const float sum = a + static_cast<float>(static_cast<std::int32_t>(bytes[i])) * 0x1p-8f * step;
    const float t = sum < kE2M1Max ? sum : kE2M1Max;
    const std::int32_t binade = binade_of(t);
    codes[i] = static_cast<std::uint8_t>(code_of(static_cast<std::int32_t>(t * places_per_unit(binade)), binade, z));
  }
}

template <class Scaled>
NIBBLE_INLINE void int4_row(const float* __restrict y, Scaled scaled, const std::uint32_t* __restrict words,
                            std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = scaled(y, i);
    const float a = float_abs(z) < kInt4Max ? float_abs(z) : kInt4Max;  // NaN saturates
    const std::int32_t low = static_cast<std::int32_t>(a);
    const std::int32_t m = low + (uniform(words[i]) < a - static_cast<float>(low) ? 1 : 0);
    codes[i] = static_cast<std::uint8_t>(m | (sign_is_kept(z) ? 8 : 0));
  }
}

/// `least` is the least magnitude above zero. The interval above a power of two is as long as the power itself.
template <class Scaled>
NIBBLE_INLINE void e3m0_row(const float* __restrict y, Scaled scaled, float least,
                            const std::uint32_t* __restrict words, std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = scaled(y, i);
    const float a = float_abs(z) < kE3M0Max ? float_abs(z) : kE3M0Max;  // NaN saturates
    const bool under = a < least;
    const std::uint32_t exponent = float_bits(under ? least : a) >> 23;
    const float step = bits_float(exponent << 23);
    const float lo = under ? 0.0f : step;
    const float inverse = bits_float((254 - exponent) << 23);
    // Codes of magnitudes are their exponents; one above zero is the least, which `exponent` is there.
    const std::int32_t high = static_cast<std::int32_t>(exponent) - 124 + (under ? 0 : 1);
    const std::int32_t low = under ? 0 : high - 1;
    const std::int32_t m = uniform(words[i]) < (a - lo) * inverse ? high : low;
    codes[i] = static_cast<std::uint8_t>(m | (sign_is_kept(z) ? 8 : 0));
  }
}

NIBBLE_SIMD void stochastic_by_scalar(const float* y, float m, const std::uint32_t* words, std::int64_t n,
                                      std::uint8_t* codes) {
  stochastic_row(y, ByScalar{m}, words, n, codes);
}
NIBBLE_SIMD void stochastic_by_column(const float* y, const float* m, const std::uint32_t* words, std::int64_t n,
                                      std::uint8_t* codes) {
  stochastic_row(y, ByColumn{m}, words, n, codes);
}
NIBBLE_SIMD void stochastic8_by_scalar(const float* y, float m, const std::uint8_t* bytes, std::int64_t n,
                                       std::uint8_t* codes) {
  stochastic8_row(y, ByScalar{m}, bytes, n, codes);
}
NIBBLE_SIMD void stochastic8_by_column(const float* y, const float* m, const std::uint8_t* bytes, std::int64_t n,
                                       std::uint8_t* codes) {
  stochastic8_row(y, ByColumn{m}, bytes, n, codes);
}

NIBBLE_SIMD void int4_by_scalar(const float* y, float m, const std::uint32_t* words, std::int64_t n,
                                std::uint8_t* codes) {
  int4_row(y, ByScalar{m}, words, n, codes);
}
NIBBLE_SIMD void int4_by_column(const float* y, const float* m, const std::uint32_t* words, std::int64_t n,
                                std::uint8_t* codes) {
  int4_row(y, ByColumn{m}, words, n, codes);
}
NIBBLE_SIMD void e3m0_by_scalar(const float* y, float m, float least, const std::uint32_t* words, std::int64_t n,
                                std::uint8_t* codes) {
  e3m0_row(y, ByScalar{m}, least, words, n, codes);
}
NIBBLE_SIMD void e3m0_by_column(const float* y, const float* m, float least, const std::uint32_t* words, std::int64_t n,
                                std::uint8_t* codes) {
  e3m0_row(y, ByColumn{m}, least, words, n, codes);
}

/// Bytes [first, first + n) of the stream of Philox groups, sixteen a group. In little-endian memory the bytes of
/// consecutive words are the bytes of consecutive elements.
void stream_bytes(const RandomStream& stream, std::uint64_t group, std::int64_t skip, std::int64_t n,
                  std::uint8_t* out) {
  constexpr std::int64_t kGroup = sizeof(Philox4);
  const auto copy_part = [&](std::int64_t from, std::int64_t count) {
    const Philox4 words = stream.words(group++);
    std::memcpy(out, reinterpret_cast<const std::uint8_t*>(words.v) + from, static_cast<std::size_t>(count));
    out += count;
    n -= count;
  };
  if (skip > 0 && n > 0) copy_part(skip, std::min(n, kGroup - skip));
  const std::int64_t whole = n / kGroup;
  philox_groups(stream, group, whole, out);
  group += static_cast<std::uint64_t>(whole);
  out += whole * kGroup;
  n -= whole * kGroup;
  if (n > 0) copy_part(0, n);
}

}  // namespace

void random_words(const RandomStream& stream, std::uint64_t first, std::int64_t n, std::uint32_t* words) {
  constexpr std::int64_t kWord = sizeof(std::uint32_t);
  stream_bytes(stream, first / 4, kWord * static_cast<std::int64_t>(first % 4), kWord * n,
               reinterpret_cast<std::uint8_t*>(words));
}

void random_bytes(const RandomStream& stream, std::uint64_t first, std::int64_t n, std::uint8_t* bytes) {
  stream_bytes(stream, first / 16, static_cast<std::int64_t>(first % 16), n, bytes);
}

void encode_e2m1_stochastic(const float* y, Multiplier multiplier, const std::uint32_t* words, std::int64_t n,
                            std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    stochastic_by_column(y, multiplier.each, words, n, codes);
  } else {
    stochastic_by_scalar(y, multiplier.scalar, words, n, codes);
  }
}

void encode_e2m1_stochastic8(const float* y, Multiplier multiplier, const std::uint8_t* bytes, std::int64_t n,
                             std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    stochastic8_by_column(y, multiplier.each, bytes, n, codes);
  } else {
    stochastic8_by_scalar(y, multiplier.scalar, bytes, n, codes);
  }
}

void encode_int4_stochastic(const float* y, Multiplier multiplier, const std::uint32_t* words, std::int64_t n,
                            std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    int4_by_column(y, multiplier.each, words, n, codes);
  } else {
    int4_by_scalar(y, multiplier.scalar, words, n, codes);
  }
}

void encode_e3m0_stochastic(const float* y, Multiplier multiplier, int log_steps, const std::uint32_t* words,
                            std::int64_t n, std::uint8_t* codes) {
  if (multiplier.each != nullptr) {
    e3m0_by_column(y, multiplier.each, e3m0_least(log_steps), words, n, codes);
  } else {
    e3m0_by_scalar(y, multiplier.scalar, e3m0_least(log_steps), words, n, codes);
  }
}

}  // namespace nibble::quant_cpu
