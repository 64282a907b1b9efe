#include "nibble/quant/cpu/nvfp4_scales.h"

#include <algorithm>
#include <limits>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/small_float_code.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

constexpr float kFloatMax = std::numeric_limits<float>::max();
constexpr std::int32_t kFloatMaxBits = 0x7F7F'FFFF;

NIBBLE_SIMD void scales(const AmaxBits* __restrict amax, std::int64_t n, OuterScale outer, float stretch,
                        std::uint8_t zero_code, std::uint8_t* __restrict code, float* __restrict decode,
                        float* __restrict multiplier) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = bits_float(static_cast<std::uint32_t>(std::min(amax[i], kFloatMaxBits)));
    const float ideal = value * outer.factor * stretch;
    const std::uint32_t rounded = small_float_code<3, 7>(ideal < kE4M3Max ? ideal : kE4M3Max);
    const auto c = static_cast<std::uint8_t>(rounded == 0 ? zero_code : rounded);
    const float s = e4m3_decode(c) * outer.decode;
    const float inverse = 1.0f / s;
    code[i] = c;
    decode[i] = s;
    multiplier[i] = inverse < kFloatMax ? inverse : kFloatMax;
  }
}

}  // namespace

OuterScale outer_scale(const Nvfp4Scale& rule, AmaxBits amax_bits) {
  const float amax = amax_value(amax_bits);
  const auto largest = static_cast<float>(rule.val_max * rule.scale_max);
  const float encode = amax == 0 ? 1.0f : std::min(largest / amax, kFloatMax);
  return {1.0f / encode, std::min(encode * static_cast<float>(1 / rule.val_max), kFloatMax)};
}

void nvfp4_scales(const AmaxBits* amax, std::int64_t n, OuterScale outer, float stretch, std::uint8_t zero_code,
                  std::uint8_t* code, float* decode, float* multiplier) {
  scales(amax, n, outer, stretch, zero_code, code, decode, multiplier);
}

}  // namespace nibble::quant_cpu
