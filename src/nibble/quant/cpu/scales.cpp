#include "nibble/quant/cpu/scales.h"

#include <algorithm>
#include <limits>

#include "nibble/numerics/fp8.h"
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

/// E8M0 from the exponent of amax (that of the smallest normal for subnormals, which then clamps to -127) less 2;
/// Ceil6 adds one where the mantissa is above 1.5, for 6 = 1.5 * 2^2.
NIBBLE_SIMD void e8m0_scales(const AmaxBits* __restrict amax, std::int64_t n, bool ceil6,
                             std::uint8_t* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t bits = std::min(amax[i], kFloatMaxBits);
    const std::int32_t up = ceil6 && (bits & 0x007F'FFFF) > 0x0040'0000 ? 1 : 0;
    const std::int32_t biased = std::max((bits >> 23) - 2 + up, 0);
    scale[i] = static_cast<std::uint8_t>(biased);
    multiplier[i] = bits_float(static_cast<std::uint32_t>(254 - biased) << 23);  // 2^(127 - biased), biased <= 253
  }
}

NIBBLE_SIMD void nvfp4_scales(const AmaxBits* __restrict amax, std::int64_t n, float factor, float tensor_scale,
                              std::uint8_t* __restrict scale, float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float ideal = bits_float(static_cast<std::uint32_t>(std::min(amax[i], kFloatMaxBits))) * factor;
    const std::uint8_t code = e4m3_encode(ideal);
    const float inverse = 1.0f / (e4m3_decode(code) * tensor_scale);
    scale[i] = code;
    multiplier[i] = inverse < kFloatMax ? inverse : kFloatMax;
  }
}

}  // namespace

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

NIBBLE_SIMD void max_into(const AmaxBits* __restrict from, std::int64_t n, AmaxBits* __restrict into) {
  for (std::int64_t i = 0; i < n; ++i) into[i] = std::max(into[i], from[i]);
}

float amax_value(AmaxBits bits) { return bits_float(static_cast<std::uint32_t>(std::min(bits, kFloatMaxBits))); }

Scaler::Scaler(ScaleRule rule, ElementFormat element, AmaxBits tensor_amax)
    : rule_(rule), element_max_(element_max(element)) {
  if (rule != ScaleRule::Nvfp4) return;
  // Spec: s_enc = 6 * 448 / amax, s_dec = 1 / s_enc, and 1/6 folded into the factor of the block scales.
  const float amax = amax_value(tensor_amax);
  const float encode = amax == 0 ? 1.0f : std::min(kE4M3Max * element_max_ / amax, kFloatMax);
  tensor_scale_ = 1.0f / encode;
  block_factor_ = std::min(encode * (1.0f / element_max_), kFloatMax);
}

void Scaler::operator()(const AmaxBits* amax, std::int64_t n, const Tensor& stored, std::int64_t first,
                        float* multiplier) const {
  switch (rule_) {
    case ScaleRule::None: break;
    case ScaleRule::Absmax: return absmax_scales(amax, n, element_max_, stored.data<float>() + first, multiplier);
    case ScaleRule::AbsmaxPow2: return pow2_scales(amax, n, element_max_, stored.data<float>() + first, multiplier);
    case ScaleRule::OcpFloor:
    case ScaleRule::Ceil6:
      return e8m0_scales(amax, n, rule_ == ScaleRule::Ceil6, stored.data<std::uint8_t>() + first, multiplier);
    case ScaleRule::Nvfp4:
      return nvfp4_scales(amax, n, block_factor_, tensor_scale_, stored.data<std::uint8_t>() + first, multiplier);
  }
  require(false, "a scale rule is needed here");
}

void expand_blocks(const float* values, std::int64_t block, std::int64_t n, float* out) {
  for (std::int64_t begin = 0, j = 0; begin < n; begin += block, ++j) {
    std::fill(out + begin, out + std::min(n, begin + block), values[j]);
  }
}

}  // namespace nibble::quant_cpu
