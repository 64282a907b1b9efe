#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/multiplier.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/quant/cpu/source.h"
#include "nibble/quant/dge_element.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble {

namespace {

template <class Scaled>
NIBBLE_INLINE void multiply_row(const float* __restrict w, Scaled scaled, DgeFactors dge, std::int64_t n,
                                float* __restrict dw) {
  for (std::int64_t i = 0; i < n; ++i) dw[i] *= dge_element(dge, scaled(w, i));
}
/// The same with the scaled weight and f' rounded to BF16.
template <class Scaled>
NIBBLE_INLINE void multiply_row_in_bf16(const float* __restrict w, Scaled scaled, DgeFactors dge, std::int64_t n,
                                        float* __restrict dw) {
  for (std::int64_t i = 0; i < n; ++i) dw[i] *= bf16_round(dge_element(dge, bf16_round(scaled(w, i))));
}

using quant_cpu::ByColumn;
using quant_cpu::ByScalar;

NIBBLE_SIMD void multiply(const float* w, float m, DgeFactors dge, std::int64_t n, float* dw) {
  multiply_row(w, ByScalar{m}, dge, n, dw);
}
NIBBLE_SIMD void multiply(const float* w, const float* m, DgeFactors dge, std::int64_t n, float* dw) {
  multiply_row(w, ByColumn{m}, dge, n, dw);
}
NIBBLE_SIMD void multiply_in_bf16(const float* w, float m, DgeFactors dge, std::int64_t n, float* dw) {
  multiply_row_in_bf16(w, ByScalar{m}, dge, n, dw);
}
NIBBLE_SIMD void multiply_in_bf16(const float* w, const float* m, DgeFactors dge, std::int64_t n, float* dw) {
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
  const std::int64_t n = q.cols;
  if (q.rows * n == 0) return;
  const DgeFactors dge = dge_factors(k, clip);

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
