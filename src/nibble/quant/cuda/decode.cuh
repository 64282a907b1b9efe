// Elements of a QTensor back to floats: what kernels that read codes share.
#pragma once

#include <algorithm>

#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/fp8.h"
#include "nibble/numerics/int4.h"
#include "nibble/quant/cuda/fast_divide.h"
#include "nibble/quant/qtensor.h"

namespace nibble::quant_cuda {

/// The value of the E2M1 code in the low four bits: as a float whose exponent bias is 1, which one product corrects
/// (0.5 is a subnormal there).
__device__ __forceinline__ float decode_e2m1(std::uint32_t code) {
  return bits_float((code & 7u) << 22 | (code & 8u) << 28) * 0x1p126f;
}

__device__ __forceinline__ float decode_four_bit(ElementFormat element, std::uint32_t code) {
  if (element == ElementFormat::E2M1) return decode_e2m1(code);
  const auto nibble = static_cast<std::uint8_t>(code & 15u);
  return element == ElementFormat::Int4 ? int4_decode(nibble) : e3m0_decode(nibble);
}

/// A QTensor as a kernel takes it. Rows and columns are below 2^31, their product need not be.
struct DecodeView {
  const void* codes = nullptr;
  const void* scales = nullptr;
  const float* outer_scales = nullptr;
  const float* device_scale = nullptr;
  float tensor_scale = 1;
  ElementFormat element = ElementFormat::BF16;
  ScaleFormat scale_format = ScaleFormat::None;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  std::int64_t row_bytes = 0;
  FastDivide block_rows;
  FastDivide block_cols;
  FastDivide outer;
  std::int64_t scale_cols = 0;
  std::int64_t outer_cols = 0;

  DecodeView() = default;
  /// q is not empty.
  explicit DecodeView(const QTensor& q)
      : codes(q.codes.raw()),
        scales(q.scales.raw()),
        tensor_scale(q.tensor_scale),
        element(q.element),
        scale_format(q.scale_format),
        rows(static_cast<std::uint32_t>(q.rows)),
        cols(static_cast<std::uint32_t>(q.cols)),
        row_bytes(q.code_row_bytes()),
        block_rows(std::min(q.block_rows(), q.rows)),
        block_cols(std::min(q.block_cols(), q.cols)),
        scale_cols(q.scale_cols()) {
    if (q.device_scale.defined()) device_scale = q.device_scale.data<float>();
    if (!q.outer_scales.defined()) return;
    outer_scales = q.outer_scales.data<float>();
    outer = FastDivide(std::min(q.outer, q.cols));
    outer_cols = q.outer_scales.cols();
  }

  /// The factor on the whole tensor.
  __device__ float factor() const { return device_scale == nullptr ? tensor_scale : tensor_scale * *device_scale; }
  /// The stored scale at an index into the scale matrix.
  __device__ float stored_scale(std::int64_t index) const {
    switch (scale_format) {
      case ScaleFormat::None: break;
      case ScaleFormat::F32: return static_cast<const float*>(scales)[index];
      case ScaleFormat::E8M0: return e8m0_decode(static_cast<const std::uint8_t*>(scales)[index]);
      case ScaleFormat::UE4M3: return e4m3_decode(static_cast<const std::uint8_t*>(scales)[index]);
    }
    return 1.0f;
  }
  __device__ std::int64_t scale_index(std::uint32_t r, std::uint32_t c) const {
    return static_cast<std::int64_t>(block_rows.quotient(r)) * scale_cols + block_cols.quotient(c);
  }
  __device__ float outer_scale(std::uint32_t r, std::uint32_t c) const {
    return outer_scales[static_cast<std::int64_t>(r) * outer_cols + outer.quotient(c)];
  }
  /// The element without its scales.
  __device__ float element_at(std::uint32_t r, std::uint32_t c) const {
    const auto* row = static_cast<const std::uint8_t*>(codes) + static_cast<std::int64_t>(r) * row_bytes;
    switch (element) {
      case ElementFormat::F32: return reinterpret_cast<const float*>(row)[c];
      case ElementFormat::BF16: return bf16_decode(reinterpret_cast<const bf16*>(row)[c]);
      case ElementFormat::E4M3: return e4m3_decode(row[c]);
      case ElementFormat::E5M2: return e5m2_decode(row[c]);
      default: return decode_four_bit(element, static_cast<std::uint32_t>(row[c / 2]) >> (4 * (c & 1u)));
    }
  }
  /// value(r, c) of QTensor without the residual, multiplied in the CPU's order; `all` is factor().
  __device__ float value(std::uint32_t r, std::uint32_t c, float all) const {
    float v = element_at(r, c);
    if (scale_format == ScaleFormat::None) return v;
    v *= stored_scale(scale_index(r, c));
    if (outer_scales != nullptr) v *= outer_scale(r, c);
    return v * all;
  }
};

}  // namespace nibble::quant_cuda
