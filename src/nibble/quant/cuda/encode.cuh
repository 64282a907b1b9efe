// Scaled values to element codes, by the rounding rules of numerics/. Beside a float whose last place is the grid step
// the FPU rounds, and the low bits of the sum count steps; the direction of rounding makes the tie rules. A product
// that is NaN is the positive NaN on a GPU, which min() takes to the largest element: as every rule wants it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/int4.h"
#include "nibble/numerics/philox.h"
#include "nibble/quant/cuda/e2m1_eight.cuh"
#include "nibble/quant/cuda/e2m1_hardware.cuh"
#include "nibble/quant/cuda/load_eight.cuh"
#include "nibble/quant/quant_spec.h"

namespace nibble::quant_cuda {

/// How elements are rounded, as a kernel takes it.
struct EncodeView {
  ElementFormat element = ElementFormat::BF16;
  Rounding rounding = Rounding::NearestEven;
  int log_steps = 6;
  KeyedStream random;
  std::uint64_t first = 0;           ///< number of element (0, 0)
  std::uint64_t stride = 0;          ///< from one row to the next
  const float* reference = nullptr;  ///< F32 [rows, cols] in the coordinates of the result
  bool wide_reference = false;       ///< every row begins at a multiple of 16 bytes
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
};

__device__ __forceinline__ std::uint32_t sign_code(float z) { return float_bits(z) >> 28 & 8u; }

/// z / step to the nearest integer under the tie rule, |z| below 2^20 steps; z is not negative but for the upper tie
/// rule.
template <Tie tie>
__device__ __forceinline__ std::int32_t nearest_places(float z, float step) {
  if constexpr (tie == Tie::Even) {
    const float unit = step * 0x1p23f;
    return static_cast<std::int32_t>(float_bits(z + unit) - float_bits(unit));
  }
  // In half steps: half a step added and rounded down (a tie goes up), or rounded up (a tie stays), then halved.
  const float unit = step * 0x1.8p22f;
  const float sum = tie == Tie::Zero ? __fadd_ru(z, unit) : __fadd_rd(z, unit + 0.5f * step);
  return static_cast<std::int32_t>(float_bits(sum) - float_bits(unit)) >> 1;
}

/// A magnitude of `places` steps counted from `first`, and the sign: the upper tie rule has none on zero.
template <Tie tie>
__device__ __forceinline__ std::uint32_t signed_code(std::int32_t places, std::uint32_t first, float z) {
  const std::uint32_t sign = tie == Tie::Up ? static_cast<std::uint32_t>(places) >> 28 & 8u : sign_code(z);
  return (static_cast<std::uint32_t>(tie == Tie::Up ? abs(places) : places) + first) | sign;
}

/// The E2M1 grid has the step 2^(binade - 1), binade 0 to 2: half the power of two below a, below 1 that below 1.
struct E2m1Grid {
  float step;
  std::uint32_t first;  ///< code of the binade: places count from there, 2 of a binade lie below it
  __device__ __forceinline__ explicit E2m1Grid(float a) {
    const std::uint32_t power = float_bits(fmaxf(a, 1.0f)) & 0x7F80'0000u;
    step = bits_float(power - (1u << 23));
    first = (power >> 22) - 2 * 127;
  }
};

/// Steps below a, and what is left over, in steps; both exact.
struct Split {
  std::uint32_t places;
  float rest;
  __device__ __forceinline__ Split(float a, float step, float steps_per_unit) {
    const float unit = step * 0x1p23f;
    const float cut = __fadd_rz(a, unit);
    places = float_bits(cut) - float_bits(unit);
    rest = (a - (cut - unit)) * steps_per_unit;
  }
};

/// 1 / step for a power of two from 2^-126 to 2^126.
__device__ __forceinline__ float inverse_of_power(float step) { return bits_float(0x7F00'0000u - float_bits(step)); }

__device__ __forceinline__ std::uint32_t e2m1_reference(float z, float towards) {
  const bool negative = float_signbit(z);
  const float a = fminf(fabsf(z), kE2M1Max);
  const E2m1Grid grid(a);
  const Split split(a, grid.step, 1.0f);
  const float middle = (static_cast<float>(split.places) + 0.5f) * grid.step;
  const bool upper = towards > (negative ? -middle : middle);
  const bool away = split.rest != 0.0f && upper != negative;
  return (split.places + (away ? 1u : 0u) + grid.first) | sign_code(z);
}

template <Tie tie>
__device__ __forceinline__ std::uint32_t int4_nearest(float z) {
  const float b = tie == Tie::Up ? fmaxf(fminf(z, kInt4Max), -kInt4Max) : fminf(fabsf(z), kInt4Max);
  return signed_code<tie>(nearest_places<tie>(b, 1.0f), 0, z);
}

__device__ __forceinline__ std::uint32_t int4_stochastic(float z, std::uint32_t word) {
  const Split split(fminf(fabsf(z), kInt4Max), 1.0f, 1.0f);
  return (split.places + (uniform24(word) < split.rest ? 1u : 0u)) | sign_code(z);
}

/// The neighbours of a in E3M0: codes above zero are exponents, and the interval above a power is as long as it.
struct E3m0Neighbours {
  float lo;
  float step;  ///< from lo to the upper one
  std::uint32_t low;
  std::uint32_t high;
  __device__ __forceinline__ E3m0Neighbours(float a, float least) {
    const bool under = a < least;
    const std::uint32_t exponent = float_bits(under ? least : a) >> 23;
    step = bits_float(exponent << 23);
    lo = under ? 0.0f : step;
    high = exponent - 124 + (under ? 0 : 1);
    low = under ? 0 : high - 1;
  }
};

template <Tie tie>
__device__ __forceinline__ std::uint32_t e3m0_nearest(float z, float least) {
  const float a = fminf(fabsf(z), kE3M0Max);
  const E3m0Neighbours near(a, least);
  const float midpoint = near.lo + 0.5f * near.step;
  const bool away =
      tie == Tie::Away || (tie == Tie::Up && !float_signbit(z)) || (tie == Tie::Even && near.low % 2 != 0);
  const std::uint32_t m = (away ? a >= midpoint : a > midpoint) ? near.high : near.low;
  return m | (tie == Tie::Up && m == 0 ? 0u : sign_code(z));
}

__device__ __forceinline__ std::uint32_t e3m0_stochastic(float z, float least, std::uint32_t word) {
  const float a = fminf(fabsf(z), kE3M0Max);
  const E3m0Neighbours near(a, least);
  const bool up = uniform24(word) < (a - near.lo) * inverse_of_power(near.step);
  return (up ? near.high : near.low) | sign_code(z);
}

/// Two codes, that of `low` in the low byte; saturating, NaN to 0x7F.
__device__ __forceinline__ std::uint32_t fp8_pair(ElementFormat element, float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE,
                                  element == ElementFormat::E4M3 ? __NV_E4M3 : __NV_E5M2);
}

/// Eight scaled values as two words of codes; y is what they were before, for the sign of a NaN, of which there is none
/// where all of them are finite.
__device__ __forceinline__ void encode_fp8(ElementFormat element, const float (&z)[8], const float (&y)[8],
                                           bool all_finite, std::uint32_t (&words)[2]) {
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    words[w] = fp8_pair(element, z[4 * w], z[4 * w + 1]) | fp8_pair(element, z[4 * w + 2], z[4 * w + 3]) << 16;
    if (all_finite) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (isnan(z[4 * w + i]) && float_signbit(y[4 * w + i])) words[w] |= 0x80u << (8 * i);
    }
  }
}

/// stream.word(element), without an array that is indexed at run time.
__device__ __forceinline__ std::uint32_t random_word(const KeyedStream& stream, std::uint64_t element) {
  const Philox4 draw = stream.words(element >> 2);
  const std::uint32_t low = (element & 1u) != 0 ? draw.v[1] : draw.v[0];
  const std::uint32_t high = (element & 1u) != 0 ? draw.v[3] : draw.v[2];
  return (element & 2u) != 0 ? high : low;
}

/// words[i] = stream.word(first + i).
__device__ __forceinline__ void random_words(const KeyedStream& stream, std::uint64_t first,
                                             std::uint32_t (&words)[8]) {
  const Philox4 a = stream.words(first >> 2);
  const Philox4 b = stream.words((first >> 2) + 1);
  const std::uint32_t skip = static_cast<std::uint32_t>(first) & 3u;
  if (skip == 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = a.v[i], words[4 + i] = b.v[i];
    return;
  }
  const Philox4 c = stream.words((first >> 2) + 2);
  const std::uint32_t all[11] = {a.v[0], a.v[1], a.v[2], a.v[3], b.v[0], b.v[1],
                                 b.v[2], b.v[3], c.v[0], c.v[1], c.v[2]};
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i] = skip == 1 ? all[i + 1] : skip == 2 ? all[i + 2] : all[i + 3];
}

/// Byte i of the result (in words of four) = stream.byte(first + i).
__device__ __forceinline__ void random_bytes(const KeyedStream& stream, std::uint64_t first,
                                             std::uint32_t (&bytes)[2]) {
  const std::uint32_t place = static_cast<std::uint32_t>(first) & 15u;
  const Philox4 a = stream.words(first >> 4);
  Philox4 b = a;
  if (place > 8) b = stream.words((first >> 4) + 1);
  const std::uint32_t all[6] = {a.v[0], a.v[1], a.v[2], a.v[3], b.v[0], b.v[1]};
  std::uint32_t from[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const std::uint32_t low = (place & 4u) != 0 ? all[i + 1] : all[i];
    const std::uint32_t high = (place & 4u) != 0 ? all[i + 3] : all[i + 2];
    from[i] = (place & 8u) != 0 ? high : low;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) bytes[i] = __funnelshift_r(from[i], from[i + 1], 8 * (place & 3u));
}

template <class Code>
__device__ __forceinline__ std::uint32_t pack_eight(Code code) {
  std::uint32_t packed = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) packed |= code(i) << (4 * i);
  return packed;
}

template <Tie tie>
__device__ __forceinline__ std::uint32_t encode_nearest(ElementFormat element, float least, const float (&z)[8],
                                                        bool all_finite) {
  if (element == ElementFormat::E2M1) {
    if constexpr (tie == Tie::Even && kHasE2m1Conversion) {
      return e2m1_converted_eight(z);
    } else {
      return e2m1_nearest_eight<tie>(z, all_finite);
    }
  }
  if (element == ElementFormat::Int4) return pack_eight([&](int i) { return int4_nearest<tie>(z[i]); });
  return pack_eight([&](int i) { return e3m0_nearest<tie>(z[i], least); });
}

/// Codes of the elements [c, c + 8) of row r in the four-bit formats, the first in the lowest bits: z = y * m, one
/// factor an element; `all_finite` is known of z. Columns beyond the end of the row are encoded too.
__device__ __forceinline__ std::uint32_t encode_four_bit(const EncodeView& e, std::uint32_t r, std::uint32_t c,
                                                         const float (&z)[8], const float (&m)[8], bool all_finite) {
  const ElementFormat element = e.element;
  const float least = e3m0_least(e.log_steps);
  const std::uint64_t first = e.first + e.stride * r + c;
  switch (e.rounding) {
    case Rounding::NearestEven:
    case Rounding::Eden: return encode_nearest<Tie::Even>(element, least, z, all_finite);
    case Rounding::NearestUp: return encode_nearest<Tie::Up>(element, least, z, all_finite);
    case Rounding::NearestZero: return encode_nearest<Tie::Zero>(element, least, z, all_finite);
    case Rounding::NearestAway: return encode_nearest<Tie::Away>(element, least, z, all_finite);
    case Rounding::Stochastic: {
      std::uint32_t words[8];
      random_words(e.random, first, words);
      if (element == ElementFormat::E2M1) return e2m1_stochastic_eight(z, words, all_finite);
      if (element == ElementFormat::Int4) return pack_eight([&](int i) { return int4_stochastic(z[i], words[i]); });
      return pack_eight([&](int i) { return e3m0_stochastic(z[i], least, words[i]); });
    }
    case Rounding::Stochastic8: {
      std::uint32_t bytes[2];
      random_bytes(e.random, first, bytes);
      return e2m1_stochastic8_eight(
          z, [&](int i) { return bytes[i / 4] >> (8 * (i % 4)) & 0xFFu; }, all_finite);
    }
    case Rounding::Reference: {
      if (r >= e.rows || c >= e.cols) return 0;
      float towards[8];
      load_eight(e.reference + static_cast<std::int64_t>(r) * e.cols, c, e.cols, e.wide_reference, towards);
      return pack_eight([&](int i) { return e2m1_reference(z[i], towards[i] * m[i]); });
    }
  }
  return 0;
}

inline __host__ __device__ constexpr bool is_byte(ElementFormat element) {
  return element == ElementFormat::E4M3 || element == ElementFormat::E5M2;
}

/// Sixteen elements under one factor: codes of four bits in words[0] and [1].
__device__ __forceinline__ void encode_sixteen(const EncodeView& e, std::uint32_t r, std::uint32_t c,
                                               const float (&z)[16], float factor, bool all_finite,
                                               std::uint32_t (&words)[4]) {
  const float half[2][8] = {{z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7]},
                            {z[8], z[9], z[10], z[11], z[12], z[13], z[14], z[15]}};
  if (e.rounding == Rounding::Stochastic8) {
    const std::uint64_t first = e.first + e.stride * r + c;
    if ((first & 15u) == 0) {  // one draw serves all
      const Philox4 draw = e.random.words(first >> 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        words[h] = e2m1_stochastic8_eight(
            half[h], [&](int i) { return draw.v[2 * h + i / 4] >> (8 * (i % 4)) & 0xFFu; }, all_finite);
      }
      return;
    }
  }
  const float m[8] = {factor, factor, factor, factor, factor, factor, factor, factor};
#pragma unroll
  for (std::uint32_t h = 0; h < 2; ++h) words[h] = encode_four_bit(e, r, c + 8 * h, half[h], m, all_finite);
}

__device__ __forceinline__ void encode_fp8_sixteen(ElementFormat element, const float (&z)[16], const float (&y)[16],
                                                   bool all_finite, std::uint32_t (&words)[4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int f = 8 * h;
    const float z8[8] = {z[f], z[f + 1], z[f + 2], z[f + 3], z[f + 4], z[f + 5], z[f + 6], z[f + 7]};
    const float y8[8] = {y[f], y[f + 1], y[f + 2], y[f + 3], y[f + 4], y[f + 5], y[f + 6], y[f + 7]};
    std::uint32_t of_half[2];
    encode_fp8(element, z8, y8, all_finite, of_half);
    words[2 * h] = of_half[0];
    words[2 * h + 1] = of_half[1];
  }
}

/// The E4M3 codes of the four E2M1 codes in the low sixteen bits, by looking up the magnitudes and the signs.
__device__ __forceinline__ std::uint32_t e2m1_to_e4m3(std::uint32_t codes) {
  constexpr std::uint32_t kFromZero = 0x3C38'3000u;  // 0 0.5 1 1.5
  constexpr std::uint32_t kFromTwo = 0x4C48'4440u;   // 2 3 4 6
  return __byte_perm(kFromZero, kFromTwo, codes & 0x7777u) | __byte_perm(0x8000u, 0u, codes >> 3 & 0x1111u);
}

/// Those four as pairs of BF16, times a factor: exact where four significant bits of the factor are set.
__device__ __forceinline__ void e2m1_to_bf16(std::uint32_t codes, __nv_bfloat162 factor, std::uint32_t* pairs) {
  const std::uint32_t magnitudes = codes & 0x7777u;
  const std::uint32_t low = __byte_perm(0xC080'0000u, 0xC080'4000u, magnitudes);
  const std::uint32_t high =
      __byte_perm(0x3F3F'3F00u, 0x4040'4040u, magnitudes) | __byte_perm(0x8000u, 0u, codes >> 3 & 0x1111u);
  const std::uint32_t values[2] = {__byte_perm(low, high, 0x5140u), __byte_perm(low, high, 0x7362u)};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const __nv_bfloat162 product = __hmul2_rn(*reinterpret_cast<const __nv_bfloat162*>(&values[i]), factor);
    pairs[i] = *reinterpret_cast<const std::uint32_t*>(&product);
  }
}

}  // namespace nibble::quant_cuda
