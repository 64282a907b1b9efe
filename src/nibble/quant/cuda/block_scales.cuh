// The decode scales of the four-bit elements behind a QTensor: those that it stores, or where its elements were
// re-expressed in another form, those of the elements as they were quantised.
#pragma once

#include "nibble/quant/cuda/decode.cuh"

namespace nibble::quant_cuda {

struct BlockScales {
  DecodeView q;
  const float* element_scales = nullptr;
  FastDivide rows;
  FastDivide cols;
  std::int64_t count = 0;  ///< blocks of a row of blocks

  /// q is not empty.
  explicit BlockScales(const QTensor& tensor) : q(tensor) {
    const bool behind = tensor.element_scales.defined();
    if (behind) element_scales = tensor.element_scales.data<float>();
    const Granularity blocks = behind ? tensor.element_granularity : tensor.granularity;
    rows = FastDivide(blocks.rows == 0 ? tensor.rows : blocks.rows);
    cols = FastDivide(blocks.cols == 0 ? tensor.cols : blocks.cols);
    count = (tensor.cols + cols.divisor() - 1) / cols.divisor();
  }

  __device__ std::int64_t index(std::uint32_t r, std::uint32_t c) const {
    return static_cast<std::int64_t>(rows.quotient(r)) * count + cols.quotient(c);
  }
  /// The outer scale multiplied in, without the factor on the whole tensor.
  __device__ float scale(std::uint32_t r, std::uint32_t c) const {
    if (element_scales != nullptr) return element_scales[index(r, c)];
    const float stored = q.stored_scale(index(r, c));
    return q.outer_scales == nullptr ? stored : stored * q.outer_scale(r, c);
  }
  __device__ float factor() const { return element_scales != nullptr ? 1.0f : q.factor(); }
};

}  // namespace nibble::quant_cuda
