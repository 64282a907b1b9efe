// From the statistics of a block to its stored scale and to the factor that its elements are encoded with, one block a
// thread, as quant/cpu/scales.cpp, nvfp4_scales.cpp and four_over_six.cpp define them.
#pragma once

#include <limits>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/nvfp4_scales.h"
#include "nibble/quant/cuda/encode.cuh"

namespace nibble::quant_cuda {

/// A scale rule with its constants worked out, as a kernel takes it.
struct ScaleView {
  ScaleRule rule = ScaleRule::None;
  quant_cpu::Moments moments = quant_cpu::Moments::None;
  float element_max = 0;
  quant_cpu::Pow2Rounding pow2;
  std::int32_t quest_up = 0;  ///< the mantissa from which a QuEST scale goes one power up
  // Nvfp4.
  float largest = 0;          ///< val_max * scale_max
  float inverse_val_max = 0;  ///< 1 / val_max
  std::uint8_t zero_code = 0;
  Selection selection = Selection::None;
  Rounding judged_as = Rounding::NearestEven;  ///< how four-over-six rounds

  ScaleView() = default;
  ScaleView(ScaleRule scale_rule, ElementFormat element)
      : rule(scale_rule), moments(quant_cpu::moments_of(scale_rule)), element_max(nibble::element_max(element)) {
    constexpr std::int32_t kNever = 1 << 23;
    constexpr std::int32_t kSqrtTwo = 0x0035'04F4;  // the least mantissa above it
    pow2 = quant_cpu::pow2_rounding(rule, element_max);
    quest_up = rule == ScaleRule::QuestCeil ? 1 : rule == ScaleRule::QuestNearest ? kSqrtTwo : kNever;
  }
  explicit ScaleView(const QuantSpec& spec) : ScaleView(spec.scale, spec.element) {
    if (rule != ScaleRule::Nvfp4) return;
    largest = static_cast<float>(spec.nvfp4.val_max * spec.nvfp4.scale_max);
    inverse_val_max = static_cast<float>(1 / spec.nvfp4.val_max);
    zero_code = e4m3_encode(static_cast<float>(spec.nvfp4.zero_scale));
    selection = spec.nvfp4.selection;
    judged_as = spec.rounding;
  }
};

constexpr float kFloatMax = std::numeric_limits<float>::max();
constexpr std::int32_t kFloatMaxBits = 0x7F7F'FFFF;

__device__ __forceinline__ std::int32_t magnitude_bits(float x) {
  return static_cast<std::int32_t>(float_bits(x) & 0x7FFF'FFFFu);
}

/// The larger magnitude; NaN where one of the two is.
__device__ __forceinline__ float larger_magnitude(float a, float b) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(fabsf(a)), "f"(fabsf(b)));
  return most;
}
/// The largest magnitude as bits; of NaN some that are larger than infinity's.
template <int kPer>
__device__ __forceinline__ std::int32_t amax_bits(const float (&y)[kPer]) {
  float most = fabsf(y[0]);
#pragma unroll
  for (int i = 1; i < kPer; ++i) most = larger_magnitude(most, y[i]);
  return magnitude_bits(most);
}
/// Whether everything under that amax is a number.
__device__ __forceinline__ bool is_finite_amax(std::int32_t bits) { return bits <= 0x7F7F'FFFF; }

/// The magnitude as a number; infinity and NaN count as the largest float.
__device__ __forceinline__ float amax_value(std::int32_t bits) {
  return bits_float(static_cast<std::uint32_t>(min(bits, kFloatMaxBits)));
}

/// A scale as stored, F32 or an 8-bit code, and what elements are multiplied by.
struct BlockScale {
  float stored = 1;
  std::uint8_t code = 0;
  float multiplier = 0;
};

/// A scale in F32; blocks of which 1/s is not finite become zeros under the scale 1.
__device__ __forceinline__ BlockScale f32_scale(float s) {
  const float inverse = 1.0f / s;
  const bool usable = inverse <= kFloatMax;
  return {usable ? s : 1.0f, 0, usable ? inverse : 0.0f};
}

__device__ __forceinline__ float quest_scale(float sum, float squares, float count) {
  constexpr float kShare = static_cast<float>(2.92247856 / 6);
  const float mean = sum / count;
  const float variance = squares / count - mean * mean;
  const float deviation = sqrtf(variance > 0.0f ? variance : 0.0f);
  const float c = kShare * deviation + 1e-8f;
  return c <= kFloatMax ? c : kFloatMax;
}

/// The rules of one level; sum and squares where the rule asks for moments, of `count` elements.
__device__ inline BlockScale block_scale(const ScaleView& view, std::int32_t amax, float sum, float squares,
                                         float count) {
  const std::int32_t bits = min(amax, kFloatMaxBits);
  switch (view.rule) {
    case ScaleRule::Absmax: return f32_scale(amax_value(amax) / view.element_max);
    case ScaleRule::AbsmaxPow2: {
      const float ratio = view.element_max / amax_value(amax);
      const bool usable = ratio <= kFloatMax;
      const float inverse = pow2_floor(ratio);
      return {usable ? 1.0f / inverse : 1.0f, 0, usable ? inverse : 0.0f};
    }
    case ScaleRule::OcpFloor:
    case ScaleRule::Ceil6:
    case ScaleRule::Nearest6:
    case ScaleRule::RangeMatch34: {
      const std::int32_t mantissa = bits & 0x007F'FFFF;
      const std::int32_t step = (mantissa >= view.pow2.up ? 1 : 0) - (mantissa < view.pow2.down ? 1 : 0);
      const std::int32_t biased = max((bits >> 23) - view.pow2.below + step, 0);
      return {0, static_cast<std::uint8_t>(biased),
              bits_float(static_cast<std::uint32_t>(254 - biased) << 23) * view.pow2.factor};
    }
    case ScaleRule::QuestFloor:
    case ScaleRule::QuestNearest:
    case ScaleRule::QuestCeil: {
      const auto c = static_cast<std::int32_t>(float_bits(quest_scale(sum, squares, count)));
      const std::int32_t rounded = (c >> 23) + ((c & 0x007F'FFFF) >= view.quest_up ? 1 : 0);
      const std::int32_t biased = amax == 0 ? 0 : min(rounded, 254);
      return {0, static_cast<std::uint8_t>(biased),
              biased == 254 ? 0x1p-127f : bits_float(static_cast<std::uint32_t>(254 - biased) << 23)};
    }
    case ScaleRule::QuestExact: {
      const float c = quest_scale(sum, squares, count);
      return {amax == 0 ? 1.0f : c, 0, amax == 0 ? 0.0f : 1.0f / c};
    }
    case ScaleRule::Sawb: {
      const float clip = 12.68f * sqrtf(squares / count) - 12.80f * (sum / count);
      return f32_scale((clip > 0.0f && clip <= kFloatMax ? clip : amax_value(amax)) / view.element_max);
    }
    case ScaleRule::None:
    case ScaleRule::Nvfp4: break;
  }
  return {};
}

/// What follows from the amax under one outer scale of Nvfp4.
__device__ __forceinline__ quant_cpu::OuterScale outer_scale(const ScaleView& view, std::int32_t amax_bits) {
  const float amax = amax_value(amax_bits);
  const float quotient = view.largest / amax;
  const float encode = amax == 0.0f ? 1.0f : fminf(quotient, kFloatMax);
  return {1.0f / encode, fminf(encode * view.inverse_val_max, kFloatMax)};
}

/// One block of Nvfp4; `decode` is its scale with the outer one multiplied in. Four-over-six has stretch 1.5.
struct Nvfp4Candidate {
  std::uint8_t code = 0;
  float decode = 0;
  float multiplier = 0;
};
__device__ __forceinline__ Nvfp4Candidate nvfp4_candidate(const ScaleView& view, std::int32_t amax,
                                                          quant_cpu::OuterScale outer, float stretch) {
  const float ideal = amax_value(amax) * outer.factor * stretch;
  auto code = static_cast<std::uint8_t>(fp8_pair(ElementFormat::E4M3, ideal, 0.0f));
  if (code == 0) code = view.zero_code;
  // An E4M3 number by its bits as a float whose exponent bias is 7, which one product corrects.
  const float s = bits_float(static_cast<std::uint32_t>(code) << 20) * 0x1p120f * outer.decode;
  const float inverse = 1.0f / s;
  return {code, s, inverse < kFloatMax ? inverse : kFloatMax};
}

/// |y - RND(y * multiplier) * decode|, and squared where the selection is by squares.
__device__ __forceinline__ float selection_error(const ScaleView& view, float y, const Nvfp4Candidate& candidate) {
  const float z = y * candidate.multiplier;
  float nearest = 0;
  switch (view.judged_as) {
    case Rounding::NearestUp: nearest = e2m1_nearest_magnitude<Tie::Up>(z); break;
    case Rounding::NearestZero: nearest = e2m1_nearest_magnitude<Tie::Zero>(z); break;
    case Rounding::NearestAway: nearest = e2m1_nearest_magnitude<Tie::Away>(z); break;
    default: nearest = e2m1_nearest_magnitude<Tie::Even>(z); break;
  }
  const float e = fabsf(y) - nearest * candidate.decode;
  return view.selection == Selection::Mse ? e * e : fabsf(e);
}

/// How errors are gathered.
struct Gather {
  bool largest = false;  ///< MaxAbs
  __device__ __forceinline__ float operator()(float a, float b) const { return largest ? fmaxf(a, b) : a + b; }
};

/// Sixteen lanes, each with its number, added by halves: lane l takes l + 8, then l + 4, l + 2, l + 1. Every lane of a
/// half warp gets the result.
template <class Op>
__device__ __forceinline__ float fold_sixteen(float lane, Op op) {
#pragma unroll
  for (int width = 8; width > 0; width /= 2) lane = op(lane, __shfl_xor_sync(0xFFFF'FFFFu, lane, width));
  return lane;
}

/// The same for values that lie sixteen a lane in the order of their columns, over `columns` columns (a power of two
/// from 16 up): the sixteens are added one after the other, then the lanes of the result by halves. Every lane that
/// holds some of the columns gets the result; v is overwritten.
template <class Op>
__device__ __forceinline__ float fold_columns(float (&v)[16], int columns, Op op) {
  if (columns == 32) {
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = op(v[i], __shfl_xor_sync(0xFFFF'FFFFu, v[i], 1));
  } else if (columns > 32) {
    const int lanes = columns / 16;
    const int first = static_cast<int>(threadIdx.x % 32) & ~(lanes - 1);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float sum = __shfl_sync(0xFFFF'FFFFu, v[i], first);
      for (int next = 1; next < lanes; ++next) sum = op(sum, __shfl_sync(0xFFFF'FFFFu, v[i], first + next));
      v[i] = sum;
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = op(v[i], v[i + 8]);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = op(v[i], v[i + 4]);
  return op(op(v[0], v[2]), op(v[1], v[3]));
}

struct AddOp {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

/// What MS-EDEN makes of a block scale: sum z^2 and sum z q of its group, the word of its block.
__device__ __forceinline__ std::uint8_t eden_scale(std::uint8_t code, float squares, float products,
                                                   std::uint32_t word) {
  const float s = squares / products;
  return e4m3_encode_stochastic(e4m3_decode(code) * (float_is_finite(s) ? s : 1.0f), word >> 8);
}

}  // namespace nibble::quant_cuda
