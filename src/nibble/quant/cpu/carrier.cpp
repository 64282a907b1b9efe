#include "nibble/quant/cpu/carrier.h"

#include <algorithm>
#include <vector>

#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/quant/cpu/row_pipeline.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

NIBBLE_SIMD void add(const float* __restrict a, std::int64_t n, float* __restrict sum) {
  for (std::int64_t i = 0; i < n; ++i) sum[i] += a[i];
}

}  // namespace

void copy_element_scales(const QTensor& elements, const QTensor& form) {
  for (std::int64_t band = 0; band < elements.scale_rows(); ++band) {
    float* scales = form.element_scales.data<float>() + band * elements.scale_cols();
    decode_scales(elements, band, scales);
    for (std::int64_t j = 0; j < elements.scale_cols(); ++j) scales[j] *= elements.tensor_scale;
  }
}

void add_dense_residual(const Job& job, QTensor& sum) {
  const std::int64_t n = job.cols();
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowPipeline pipeline(job);
    RowDecoder decode(job.q);
    const Scratch<float> values = scratch<float>(n);
    const Scratch<float> buffer = scratch<float>(n);
    for (std::int64_t r = begin; r < end; ++r) {
      decode(r, values.get());
      add(pipeline.cut_off(r, buffer.get()), n, values.get());
      encode_bf16(values.get(), n, sum.codes.data<bf16>() + r * n);
    }
  });
}

void carry(const QTensor& elements, QTensor& carried) {
  const std::int64_t rows = elements.rows;
  const std::int64_t cols = elements.cols;
  const std::int64_t grain = rows_per_chunk(cols * static_cast<std::int64_t>(sizeof(float)));
  std::vector<AmaxBits> chunk_amax(static_cast<std::size_t>((rows + grain - 1) / grain));
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    RowDecoder decode(elements);
    std::vector<float> values(static_cast<std::size_t>(cols));
    AmaxBits amax = 0;
    for (std::int64_t r = begin; r < end; ++r) {
      decode(r, values.data());
      amax = std::max(amax, amax_of(values.data(), cols));
    }
    chunk_amax[static_cast<std::size_t>(begin / grain)] = amax;
  });
  const AmaxBits amax = *std::max_element(chunk_amax.begin(), chunk_amax.end());
  float multiplier = 0;
  block_scales(ScaleRule::AbsmaxPow2, carried.element, {&amax}, 1, carried.scales, 0, &multiplier);
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    RowDecoder decode(elements);
    std::vector<float> values(static_cast<std::size_t>(cols));
    for (std::int64_t r = begin; r < end; ++r) {
      decode(r, values.data());
      std::uint8_t* codes = carried.codes.data<std::uint8_t>() + r * cols;
      if (carried.element == ElementFormat::E4M3) {
        encode_e4m3(values.data(), {multiplier, nullptr}, cols, codes);
      } else {
        encode_e5m2(values.data(), {multiplier, nullptr}, cols, codes);
      }
    }
  });
}

}  // namespace nibble::quant_cpu
