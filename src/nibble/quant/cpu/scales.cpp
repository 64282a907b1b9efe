#include "nibble/quant/cpu/scales.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/quant/cpu/multiplier.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

constexpr float kFloatMax = std::numeric_limits<float>::max();
constexpr std::int32_t kFloatMaxBits = 0x7F7F'FFFF;

NIBBLE_FN std::int32_t magnitude_bits(float x) { return static_cast<std::int32_t>(float_bits(x) & 0x7FFF'FFFFu); }

/// One block of a size known to the compiler, so that it keeps the block in registers.
template <int kBlock>
NIBBLE_INLINE void amax_fixed_blocks(const float* y, std::int64_t blocks, AmaxBits* amax) {
  for (std::int64_t j = 0; j < blocks; ++j) {
    AmaxBits m = amax[j];
    for (int i = 0; i < kBlock; ++i) m = std::max(m, magnitude_bits(y[j * kBlock + i]));
    amax[j] = m;
  }
}

NIBBLE_SIMD void amax_blocks_of_16(const float* y, std::int64_t blocks, AmaxBits* amax) {
  amax_fixed_blocks<16>(y, blocks, amax);
}
NIBBLE_SIMD void amax_blocks_of_32(const float* y, std::int64_t blocks, AmaxBits* amax) {
  amax_fixed_blocks<32>(y, blocks, amax);
}
NIBBLE_SIMD void amax_blocks_of_1(const float* __restrict y, std::int64_t n, AmaxBits* __restrict amax) {
  for (std::int64_t i = 0; i < n; ++i) amax[i] = std::max(amax[i], magnitude_bits(y[i]));
}

NIBBLE_SIMD void absmax_scales(const AmaxBits* __restrict amax, std::int64_t n, float element_max,
                               float* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float s = bits_float(static_cast<std::uint32_t>(std::min(amax[i], kFloatMaxBits))) / element_max;
    const float inverse = 1.0f / s;
    const bool usable = inverse <= kFloatMax;
    scale[i] = usable ? s : 1.0f;
    multiplier[i] = usable ? inverse : 0.0f;
  }
}

NIBBLE_SIMD void pow2_scales(const AmaxBits* __restrict amax, std::int64_t n, float element_max,
                             float* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float ratio = element_max / bits_float(static_cast<std::uint32_t>(std::min(amax[i], kFloatMaxBits)));
    const bool usable = ratio <= kFloatMax;
    const float inverse = pow2_floor(ratio);
    scale[i] = usable ? 1.0f / inverse : 1.0f;
    multiplier[i] = usable ? inverse : 0.0f;
  }
}

NIBBLE_SIMD void e8m0_scales(const AmaxBits* __restrict amax, std::int64_t n, Pow2Rounding rule,
                             std::uint8_t* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t bits = std::min(amax[i], kFloatMaxBits);
    const std::int32_t mantissa = bits & 0x007F'FFFF;
    const std::int32_t step = (mantissa >= rule.up ? 1 : 0) - (mantissa < rule.down ? 1 : 0);
    const std::int32_t biased = std::max((bits >> 23) - rule.below + step, 0);
    scale[i] = static_cast<std::uint8_t>(biased);
    // 2^(127 - biased), biased <= 253
    multiplier[i] = bits_float(static_cast<std::uint32_t>(254 - biased) << 23) * rule.factor;
  }
}

/// The least mantissa a (24 bits) with 2 a^2 >= square, as its stored bits: negative below 1, beyond 23 bits above 2.
std::int32_t least_mantissa(std::uint64_t square) {
  std::int64_t below = 0;
  for (int bit = 25; bit >= 0; --bit) {
    const std::int64_t trial = below | std::int64_t{1} << bit;
    if (2 * static_cast<std::uint64_t>(trial * trial) < square) below = trial;
  }
  return static_cast<std::int32_t>(below + 1 - (1 << 23));
}

/// The clipping scale of QuEST: c = (2.92247856 / 6) std + 1e-8.
NIBBLE_INLINE float quest_scale(float sum, float squares, float count) {
  constexpr float kShare = static_cast<float>(2.92247856 / 6);
  const float mean = sum / count;
  const float variance = squares / count - mean * mean;
  const float deviation = std::sqrt(variance > 0.0f ? variance : 0.0f);
  const float c = kShare * deviation + 1e-8f;
  return c <= kFloatMax ? c : kFloatMax;
}

/// A power of two from c: its exponent, one up from the mantissa `up` on.
NIBBLE_SIMD void quest_pow2_scales(const AmaxBits* __restrict amax, const float* __restrict sum,
                                   const float* __restrict squares, float count, std::int64_t n, std::int32_t up,
                                   std::uint8_t* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = static_cast<std::int32_t>(float_bits(quest_scale(sum[i], squares[i], count)));
    const std::int32_t rounded = (bits >> 23) + ((bits & 0x007F'FFFF) >= up ? 1 : 0);
    const std::int32_t biased = amax[i] == 0 ? 0 : std::min(rounded, 254);
    scale[i] = static_cast<std::uint8_t>(biased);
    // 2^-127 is subnormal
    multiplier[i] = biased == 254 ? 0x1p-127f : bits_float(static_cast<std::uint32_t>(254 - biased) << 23);
  }
}
NIBBLE_SIMD void quest_exact_scales(const AmaxBits* __restrict amax, const float* __restrict sum,
                                    const float* __restrict squares, float count, std::int64_t n,
                                    float* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float c = quest_scale(sum[i], squares[i], count);
    scale[i] = amax[i] == 0 ? 1.0f : c;
    multiplier[i] = amax[i] == 0 ? 0.0f : 1.0f / c;
  }
}

NIBBLE_SIMD void sawb_scales(const AmaxBits* __restrict amax, const float* __restrict sum,
                             const float* __restrict squares, float count, std::int64_t n, float element_max,
                             float* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float clip = 12.68f * std::sqrt(squares[i] / count) - 12.80f * (sum[i] / count);
    const float largest = bits_float(static_cast<std::uint32_t>(std::min(amax[i], kFloatMaxBits)));
    const float s = (clip > 0.0f && clip <= kFloatMax ? clip : largest) / element_max;
    const float inverse = 1.0f / s;
    const bool usable = inverse <= kFloatMax;
    scale[i] = usable ? s : 1.0f;
    multiplier[i] = usable ? inverse : 0.0f;
  }
}

constexpr int kLanes = 16;

NIBBLE_INLINE float add_by_halves(float* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

template <bool kAbsolute, int kBlock>
NIBBLE_INLINE void moments_of_fixed_blocks(const float* __restrict y, std::int64_t blocks, float* __restrict sum,
                                           float* __restrict squares) {
  for (std::int64_t j = 0; j < blocks; ++j) {
    float s[kLanes];
    float q[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      s[l] = 0.0f;
      q[l] = 0.0f;
      for (int i = l; i < kBlock; i += kLanes) {
        const float v = y[j * kBlock + i];
        s[l] += kAbsolute ? float_abs(v) : v;
        q[l] += v * v;
      }
    }
    sum[j] += add_by_halves(s);
    squares[j] += add_by_halves(q);
  }
}

template <bool kAbsolute>
NIBBLE_INLINE void moments_of_blocks(const float* __restrict y, std::int64_t n, std::int64_t block,
                                     float* __restrict sum, float* __restrict squares) {
  std::int64_t j = 0;
  if (block == 32) moments_of_fixed_blocks<kAbsolute, 32>(y, j = n / block, sum, squares);
  for (std::int64_t begin = j * block; begin < n; begin += block, ++j) {
    float s[kLanes] = {};
    float q[kLanes] = {};
    const std::int64_t end = std::min(n, begin + block);
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const float v = y[i + l];
        s[l] += kAbsolute ? float_abs(v) : v;
        q[l] += v * v;
      }
    }
    for (int l = 0; i < end; ++i, ++l) {
      s[l] += kAbsolute ? float_abs(y[i]) : y[i];
      q[l] += y[i] * y[i];
    }
    sum[j] += add_by_halves(s);
    squares[j] += add_by_halves(q);
  }
}
NIBBLE_SIMD void signed_moments(const float* y, std::int64_t n, std::int64_t block, float* sum, float* squares) {
  moments_of_blocks<false>(y, n, block, sum, squares);
}
NIBBLE_SIMD void absolute_moments(const float* y, std::int64_t n, std::int64_t block, float* sum, float* squares) {
  moments_of_blocks<true>(y, n, block, sum, squares);
}

/// Blocks of one size.
void equal_blocks(ScaleRule rule, float max, const BlockStatistics& s, std::int64_t n, const Tensor& stored,
                  std::int64_t first, float* multiplier) {
  const bool f32 = scale_format(rule) == ScaleFormat::F32;
  float* scale = f32 ? stored.data<float>() + first : nullptr;
  std::uint8_t* code = f32 ? nullptr : stored.data<std::uint8_t>() + first;
  constexpr std::int32_t kNever = 1 << 23;
  constexpr std::int32_t kSqrtTwo = 0x0035'04F4;  // the least mantissa above it
  switch (rule) {
    case ScaleRule::Absmax: return absmax_scales(s.amax, n, max, scale, multiplier);
    case ScaleRule::AbsmaxPow2: return pow2_scales(s.amax, n, max, scale, multiplier);
    case ScaleRule::OcpFloor:
    case ScaleRule::Ceil6:
    case ScaleRule::Nearest6:
    case ScaleRule::RangeMatch34: return e8m0_scales(s.amax, n, pow2_rounding(rule, max), code, multiplier);
    case ScaleRule::QuestFloor:
      return quest_pow2_scales(s.amax, s.sum, s.squares, s.count, n, kNever, code, multiplier);
    case ScaleRule::QuestNearest:
      return quest_pow2_scales(s.amax, s.sum, s.squares, s.count, n, kSqrtTwo, code, multiplier);
    case ScaleRule::QuestCeil: return quest_pow2_scales(s.amax, s.sum, s.squares, s.count, n, 1, code, multiplier);
    case ScaleRule::QuestExact: return quest_exact_scales(s.amax, s.sum, s.squares, s.count, n, scale, multiplier);
    case ScaleRule::Sawb: return sawb_scales(s.amax, s.sum, s.squares, s.count, n, max, scale, multiplier);
    case ScaleRule::None:
    case ScaleRule::Nvfp4: break;
  }
  require(false, "a scale rule of one level is needed here");
}

}  // namespace

Pow2Rounding pow2_rounding(ScaleRule rule, float element_max) {
  const std::uint32_t bits = float_bits(element_max);
  const auto mantissa = static_cast<std::int32_t>(bits & 0x007F'FFFF);
  Pow2Rounding result;
  result.below = static_cast<std::int32_t>(bits >> 23) - 127;
  if (rule == ScaleRule::RangeMatch34) result.factor = 0.75f;
  if (rule == ScaleRule::Ceil6) result.up = mantissa + 1;
  if (rule == ScaleRule::Nearest6) {
    // With mantissas a of amax and m of max the rounded logarithm of a / m is 1 from m sqrt(2) on, -1 under m /
    // sqrt(2).
    const std::uint64_t m = (1u << 23) + static_cast<std::uint64_t>(mantissa);
    result.up = least_mantissa(4 * m * m);
    result.down = least_mantissa(m * m);
  }
  return result;
}

NIBBLE_SIMD AmaxBits amax_of(const float* y, std::int64_t n) {
  AmaxBits m = 0;
  for (std::int64_t i = 0; i < n; ++i) m = std::max(m, magnitude_bits(y[i]));
  return m;
}

NIBBLE_SIMD AmaxBits amax_of_bf16(const std::uint16_t* x, std::int64_t n) {
  std::int16_t m = 0;
  for (std::int64_t i = 0; i < n; ++i) m = std::max(m, static_cast<std::int16_t>(x[i] & 0x7FFF));
  return static_cast<AmaxBits>(m) << 16;
}

void amax_of_blocks(const float* y, std::int64_t n, std::int64_t block, AmaxBits* amax) {
  if (block == 1) return amax_blocks_of_1(y, n, amax);
  const std::int64_t whole = n / block;
  if (block == 16) {
    amax_blocks_of_16(y, whole, amax);
  } else if (block == 32) {
    amax_blocks_of_32(y, whole, amax);
  } else {
    for (std::int64_t j = 0; j < whole; ++j) amax[j] = std::max(amax[j], amax_of(y + j * block, block));
  }
  if (whole * block < n) amax[whole] = std::max(amax[whole], amax_of(y + whole * block, n - whole * block));
}

float amax_value(AmaxBits bits) { return bits_float(static_cast<std::uint32_t>(std::min(bits, kFloatMaxBits))); }

Moments moments_of(ScaleRule rule) {
  switch (rule) {
    case ScaleRule::QuestFloor:
    case ScaleRule::QuestNearest:
    case ScaleRule::QuestCeil:
    case ScaleRule::QuestExact: return Moments::Signed;
    case ScaleRule::Sawb: return Moments::Absolute;
    default: return Moments::None;
  }
}

void add_moments(const float* y, std::int64_t n, std::int64_t block, Moments moments, float* sum, float* squares) {
  if (moments == Moments::Signed) signed_moments(y, n, block, sum, squares);
  if (moments == Moments::Absolute) absolute_moments(y, n, block, sum, squares);
}

void block_scales(ScaleRule rule, ElementFormat element, const BlockStatistics& statistics, std::int64_t n,
                  const Tensor& stored, std::int64_t first, float* multiplier) {
  const float max = element_max(element);
  if (statistics.count == statistics.last_count || statistics.sum == nullptr) {
    return equal_blocks(rule, max, statistics, n, stored, first, multiplier);
  }
  BlockStatistics last = statistics;
  last.count = statistics.last_count;
  for (const float** values : {&last.sum, &last.squares}) *values += n - 1;
  last.amax += n - 1;
  equal_blocks(rule, max, statistics, n - 1, stored, first, multiplier);
  equal_blocks(rule, max, last, 1, stored, first + n - 1, multiplier + n - 1);
}

float constant_factor(ScaleRule rule) { return rule == ScaleRule::RangeMatch34 ? 4.0f / 3.0f : 1.0f; }

namespace {

template <int kBlock>
NIBBLE_INLINE void expand_fixed_blocks(const float* __restrict values, std::int64_t blocks, float* __restrict out) {
  for (std::int64_t j = 0; j < blocks; ++j) {
    for (int i = 0; i < kBlock; ++i) out[j * kBlock + i] = values[j];
  }
}
NIBBLE_SIMD void expand_blocks_of_8(const float* values, std::int64_t blocks, float* out) {
  expand_fixed_blocks<8>(values, blocks, out);
}
NIBBLE_SIMD void expand_blocks_of_16(const float* values, std::int64_t blocks, float* out) {
  expand_fixed_blocks<16>(values, blocks, out);
}
NIBBLE_SIMD void expand_blocks_of_32(const float* values, std::int64_t blocks, float* out) {
  expand_fixed_blocks<32>(values, blocks, out);
}

}  // namespace

void expand_blocks(const float* values, std::int64_t block, std::int64_t n, float* out) {
  std::int64_t j = 0;
  if (block == 8) expand_blocks_of_8(values, j = n / block, out);
  if (block == 16) expand_blocks_of_16(values, j = n / block, out);
  if (block == 32) expand_blocks_of_32(values, j = n / block, out);
  for (std::int64_t begin = j * block; begin < n; begin += block, ++j) {
    std::fill(out + begin, out + std::min(n, begin + block), values[j]);
  }
}

}  // namespace nibble::quant_cpu
