#include "nibble/quant/cpu/stochastic.h"

#include <algorithm>
#include <cstring>

#include "nibble/numerics/e2m1.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

constexpr int kLanes = 32;  // Philox groups side by side: enough to fill two AVX-512 registers a variable
constexpr std::int64_t kBlockWords = 4 * kLanes;

/// The words of groups [group, group + kLanes), each round done for all groups before the next.
NIBBLE_SIMD void philox_block(const RandomStream& stream, std::uint64_t group, std::uint32_t* __restrict out) {
  std::uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  std::uint32_t key0 = static_cast<std::uint32_t>(stream.seed);
  std::uint32_t key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int l = 0; l < kLanes; ++l) {
    const std::uint64_t g = group + static_cast<std::uint64_t>(l);
    c0[l] = static_cast<std::uint32_t>(g);
    c1[l] = static_cast<std::uint32_t>(g >> 32);
    c2[l] = stream.step;
    c3[l] = stream.tensor;
  }
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kLanes; ++l) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[l];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2[l];
      c0[l] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[l] ^ key0;
      c1[l] = static_cast<std::uint32_t>(p1);
      c2[l] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[l] ^ key1;
      c3[l] = static_cast<std::uint32_t>(p0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  for (int l = 0; l < kLanes; ++l) {
    out[4 * l] = c0[l];
    out[4 * l + 1] = c1[l];
    out[4 * l + 2] = c2[l];
    out[4 * l + 3] = c3[l];
  }
}

/// floor(log2 a) for a >= 1, else 0. The grid step there is 2^(binade - 1), up to a = 8.
NIBBLE_INLINE std::int32_t binade_of(float a) {
  return static_cast<std::int32_t>(float_bits(a < 1.0f ? 1.0f : a) >> 23) - 127;
}
/// 1 / step = 2^(1 - binade).
NIBBLE_INLINE float places_per_unit(std::int32_t binade) {
  return bits_float(static_cast<std::uint32_t>(128 - binade) << 23);
}
/// Code of `places` grid steps counted from zero in steps of that binade (0 to 4 places, in a binade above the
/// first 2 to 4): every binade holds two codes.
NIBBLE_INLINE std::uint32_t code_of(std::int32_t places, std::int32_t binade, float z) {
  const bool negative = float_bits(z) - 0x8000'0000u <= 0x7F80'0000u;  // not for NaN, which gives +6
  return static_cast<std::uint32_t>(places + 2 * binade) | (negative ? 8u : 0u);
}

template <class Scaled>
NIBBLE_INLINE void stochastic_row(const float* __restrict y, Scaled scaled, const std::uint32_t* __restrict words,
                                  std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = scaled(y, i);
    const float a = float_abs(z) < kE2M1Max ? float_abs(z) : kE2M1Max;
    const std::int32_t binade = binade_of(a);
    const float t = a * places_per_unit(binade);
    const std::int32_t low = static_cast<std::int32_t>(t);
    const float p = t - static_cast<float>(low);
    const float u = static_cast<float>(static_cast<std::int32_t>(words[i] >> 8)) * 0x1p-24f;
    codes[i] = static_cast<std::uint8_t>(code_of(low + (u < p ? 1 : 0), binade, z));
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

}  // namespace

void random_words(const RandomStream& stream, std::uint64_t first, std::int64_t n, std::uint32_t* words) {
  std::uint32_t block[kBlockWords];
  std::uint64_t group = first / 4;
  std::int64_t skip = static_cast<std::int64_t>(first % 4);
  for (std::int64_t done = 0; done < n; group += kLanes) {
    philox_block(stream, group, block);
    const std::int64_t take = std::min(n - done, kBlockWords - skip);
    std::memcpy(words + done, block + skip, static_cast<std::size_t>(take) * sizeof(std::uint32_t));
    done += take;
    skip = 0;
  }
}

void random_bytes(const RandomStream& stream, std::uint64_t first, std::int64_t n, std::uint8_t* bytes) {
  // In little-endian memory the bytes of consecutive words are the bytes of consecutive elements.
  std::uint32_t block[kBlockWords];
  std::uint64_t group = first / 16;
  std::int64_t skip = static_cast<std::int64_t>(first % 16);
  for (std::int64_t done = 0; done < n; group += kLanes) {
    philox_block(stream, group, block);
    const std::int64_t take = std::min(n - done, 4 * kBlockWords - skip);
    std::memcpy(bytes + done, reinterpret_cast<const std::uint8_t*>(block) + skip, static_cast<std::size_t>(take));
    done += take;
    skip = 0;
  }
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

}  // namespace nibble::quant_cpu
