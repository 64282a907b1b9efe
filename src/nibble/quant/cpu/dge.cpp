#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/multiplier.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/quant/cpu/source.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble {

namespace {

/// |t| for |x| = a <= 6: how far a is from the middle of its grid interval, in half intervals. Exact: the intervals
/// are as long as the grid step of a's binade and start at its multiples.
NIBBLE_INLINE float distance_to_middle(float a) {
  const std::uint32_t binade = float_bits(a < 1.0f ? 1.0f : a) & 0x7F80'0000u;
  const float intervals = a * bits_float(0x7F80'0000u - binade);  // a / step: binade 2^e has step 2^(e - 1)
  const float u = intervals - static_cast<float>(static_cast<std::int32_t>(intervals));
  const float t = 2.0f * u - 1.0f;
  return float_abs(t);
}

/// log2(m 2^e) = e + log2(m) with m in [sqrt(1/2), sqrt(2)) and log2(m) = 2 / ln 2 * atanh((m - 1) / (m + 1)); the
/// series is cut after the ninth power, where |s| < 0.172 leaves 2e-9. x is normal and positive.
NIBBLE_INLINE float log2_series(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::int32_t e = static_cast<std::int32_t>(bits - 0x3F35'04F3u) >> 23;  // bits of sqrt(1/2)
  const float m = bits_float(bits - (static_cast<std::uint32_t>(e) << 23));
  const float s = (m - 1.0f) / (m + 1.0f);
  const float s2 = s * s;
  const float series =
      s * (2.885390082f + s2 * (0.9617966940f + s2 * (0.5770780164f + s2 * (0.4121985831f + s2 * 0.3205988980f))));
  return static_cast<float>(e) + series;
}

/// 2^y = 2^n e^(f ln 2), n the integer nearest to y, by the Taylor series to the seventh power: |f ln 2| < 0.347
/// leaves 5e-9. For |y| < 120.
NIBBLE_INLINE float exp2_series(float y) {
  constexpr float kMagic = 0x1.8p23f;  // adding it rounds to an integer, which is then in the low bits
  const float shifted = y + kMagic;
  const float f = (y - (shifted - kMagic)) * 0.6931471806f;
  const float series =
      1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6 +
                                          f * (1.0f / 24 + f * (1.0f / 120 + f * (1.0f / 720 + f * (1.0f / 5040)))))));
  const std::uint32_t n = float_bits(shifted) - float_bits(kMagic);
  return bits_float(float_bits(series) + (n << 23));
}

struct Dge {
  float slope;     ///< 1/k
  float exponent;  ///< 1/k - 1
  float clip;
  float at_middle;  ///< f' at t = 0
};

/// f' of a scaled weight, |x| bounded to 6.
NIBBLE_INLINE float derivative(float x, Dge dge) {
  const float a = float_abs(x) < kE2M1Max ? float_abs(x) : kE2M1Max;
  const float t = distance_to_middle(a);
  const float power = dge.slope * exp2_series(dge.exponent * log2_series(t > 0x1p-30f ? t : 0x1p-30f));
  const float bounded = power < dge.clip ? power : dge.clip;
  return t == 0.0f ? dge.at_middle : bounded;
}

template <class Scaled>
NIBBLE_INLINE void multiply_row(const float* __restrict w, Scaled scaled, Dge dge, std::int64_t n,
                                float* __restrict dw) {
  for (std::int64_t i = 0; i < n; ++i) dw[i] *= derivative(scaled(w, i), dge);
}
/// The same with the scaled weight and f' rounded to BF16.
template <class Scaled>
NIBBLE_INLINE void multiply_row_in_bf16(const float* __restrict w, Scaled scaled, Dge dge, std::int64_t n,
                                        float* __restrict dw) {
  for (std::int64_t i = 0; i < n; ++i) dw[i] *= bf16_round(derivative(bf16_round(scaled(w, i)), dge));
}

using quant_cpu::ByColumn;
using quant_cpu::ByScalar;

NIBBLE_SIMD void multiply(const float* w, float m, Dge dge, std::int64_t n, float* dw) {
  multiply_row(w, ByScalar{m}, dge, n, dw);
}
NIBBLE_SIMD void multiply(const float* w, const float* m, Dge dge, std::int64_t n, float* dw) {
  multiply_row(w, ByColumn{m}, dge, n, dw);
}
NIBBLE_SIMD void multiply_in_bf16(const float* w, float m, Dge dge, std::int64_t n, float* dw) {
  multiply_row_in_bf16(w, ByScalar{m}, dge, n, dw);
}
NIBBLE_SIMD void multiply_in_bf16(const float* w, const float* m, Dge dge, std::int64_t n, float* dw) {
  multiply_row_in_bf16(w, ByColumn{m}, dge, n, dw);
}

/// 1/s of each block of E2M1 elements; 0 where s is 0, whose weights all became zero.
std::vector<float> inverse_scales(const QTensor& q) {
  const std::int64_t blocks = q.scale_cols();
  std::vector<float> inverse;
  if (q.element_scales.defined()) {
    const float* scales = q.element_scales.data<float>();
    inverse.assign(scales, scales + q.element_scales.numel());
  } else {
    inverse.resize(static_cast<std::size_t>(q.scale_rows() * blocks));
    for (std::int64_t band = 0; band < q.scale_rows(); ++band) {
      quant_cpu::decode_scales(q, band, inverse.data() + band * blocks);
    }
    for (float& s : inverse) s *= q.tensor_scale;
  }
  for (float& s : inverse) s = 1.0f / s <= std::numeric_limits<float>::max() ? 1.0f / s : 0.0f;
  return inverse;
}

}  // namespace

float dge_derivative(float scaled, float k, float clip) {
  const double a = std::abs(static_cast<double>(scaled));
  if (!(a <= 6)) return 0.0f;
  const double delta = a < 2 ? 0.5 : a < 4 ? 1.0 : 2.0;
  const double low = a == 6 ? 4.0 : std::floor(a / delta) * delta;
  const double t = 2 * (a - low) / delta - 1;
  const double slope = 1 / static_cast<double>(k);
  return static_cast<float>(std::min(slope * std::pow(std::abs(t), slope - 1), static_cast<double>(clip)));
}

void cpu::dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip) {
  require(dw.dtype() == DType::F32 && dw.rows() == q.rows && dw.cols() == q.cols && w.rows() == q.rows &&
              w.cols() == q.cols,
          "dge_apply to {} with weights {} and a [{}, {}] QTensor", to_string(dw), to_string(w), q.rows, q.cols);
  require(q.element == ElementFormat::E2M1 || q.element_scales.defined(), "dge_apply wants E2M1 elements");
  require(k >= 1, "dge_apply with k = {}; the estimator needs k >= 1", k);
  const std::int64_t n = q.cols;
  if (q.rows * n == 0) return;
  const float slope = 1.0f / k;
  const Dge dge{slope, slope - 1.0f, clip, k > 1 ? clip : std::min(slope, clip)};

  const Granularity blocks = q.element_scales.defined() ? q.element_granularity : q.granularity;
  const std::int64_t block_rows = blocks.rows == 0 ? q.rows : blocks.rows;
  const std::int64_t block_cols = blocks.cols == 0 ? n : blocks.cols;
  const std::int64_t scale_cols = (n + block_cols - 1) / block_cols;
  const std::vector<float> inverse = inverse_scales(q);
  const quant_cpu::Source source(w, spec.bf16_input, {});
  parallel_for(q.rows, rows_per_chunk(n * static_cast<std::int64_t>(sizeof(float))),
               [&](std::int64_t begin, std::int64_t end) {
                 std::vector<float> buffer(static_cast<std::size_t>(n));
                 std::vector<float> expanded(static_cast<std::size_t>(block_cols < n ? n : 0));
                 for (std::int64_t r = begin; r < end; ++r) {
                   const float* scales = inverse.data() + r / block_rows * scale_cols;
                   const float* row = source.row(r, buffer.data());
                   float* gradient = dw.data<float>() + r * n;
                   if (block_cols >= n) {
                     if (spec.bf16_input) {
                       multiply_in_bf16(row, scales[0], dge, n, gradient);
                     } else {
                       multiply(row, scales[0], dge, n, gradient);
                     }
                     continue;
                   }
                   quant_cpu::expand_blocks(scales, block_cols, n, expanded.data());
                   if (spec.bf16_input) {
                     multiply_in_bf16(row, expanded.data(), dge, n, gradient);
                   } else {
                     multiply(row, expanded.data(), dge, n, gradient);
                   }
                 }
               });
}

}  // namespace nibble
