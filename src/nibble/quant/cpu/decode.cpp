#include "nibble/quant/cpu/decode.h"

#include <algorithm>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/four_bit.h"
#include "nibble/quant/cpu/multiplier.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

/// From code 4 on the values grow faster than the codes: 2, 3, 4, 6 against 4, 5, 6, 7 halves.
NIBBLE_INLINE float e2m1_value(std::int32_t code) {
  const std::int32_t m = code & 7;
  const std::int32_t twice = m + (m > 4 ? 1 : 0) + (m > 5 ? 1 : 0) + (m > 6 ? 3 : 0);
  const float magnitude = 0.5f * static_cast<float>(twice);
  return bits_float(float_bits(magnitude) | static_cast<std::uint32_t>(code & 8) << 28);
}

NIBBLE_SIMD void scale_row(float* values, float scale, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) values[i] *= scale;
}
NIBBLE_SIMD void scale_row(float* __restrict values, const float* __restrict scales, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) values[i] *= scales[i];
}
NIBBLE_SIMD void widen(const bf16* __restrict from, std::int64_t n, float* __restrict to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_decode(from[i]);
}

}  // namespace

NIBBLE_SIMD void decode_e2m1(const std::uint8_t* __restrict packed, std::int64_t n, float* __restrict out) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    out[2 * j] = e2m1_value(packed[j]);
    out[2 * j + 1] = e2m1_value(packed[j] >> 4);
  }
  if (n % 2 != 0) out[n - 1] = e2m1_value(packed[n / 2]);
}

NIBBLE_SIMD void decode_e4m3(const std::uint8_t* __restrict codes, std::int64_t n, float* __restrict out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e4m3_decode(codes[i]);
}

NIBBLE_SIMD void decode_e5m2(const std::uint8_t* __restrict codes, std::int64_t n, float* __restrict out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = e5m2_decode(codes[i]);
}

namespace {

void decode_stored_scales(const QTensor& q, std::int64_t band, float* scales) {
  const std::int64_t blocks = q.scale_cols();
  switch (q.scale_format) {
    case ScaleFormat::None: std::fill_n(scales, blocks, 1.0f); break;
    case ScaleFormat::F32: std::copy_n(q.scales.data<float>() + band * blocks, blocks, scales); break;
    case ScaleFormat::E8M0: {
      const std::uint8_t* codes = q.scales.data<std::uint8_t>() + band * blocks;
      std::transform(codes, codes + blocks, scales, [](std::uint8_t code) { return e8m0_decode(code); });
      break;
    }
    case ScaleFormat::UE4M3: decode_e4m3(q.scales.data<std::uint8_t>() + band * blocks, blocks, scales); break;
  }
}

}  // namespace

void decode_scales(const QTensor& q, std::int64_t band, float* scales) {
  decode_stored_scales(q, band, scales);
  if (!q.outer_scales.defined()) return;
  const float* outer = q.outer_scales.data<float>() + band * q.outer_scales.cols();
  for (std::int64_t j = 0; j < q.scale_cols(); ++j) scales[j] *= outer[j * q.block_cols() / q.outer];
}

RowDecoder::RowDecoder(const QTensor& q) : q_(q) {
  if (!has_scale(q.element)) return;
  block_scales_ = std::make_unique<float[]>(static_cast<std::size_t>(q.scale_cols()));
  if (q.block_cols() > 1 && q.block_cols() < q.cols) {
    column_scales_ = std::make_unique<float[]>(static_cast<std::size_t>(q.cols));
  }
}

void RowDecoder::set_scales(std::int64_t band) {
  if (band == band_) return;
  band_ = band;
  decode_stored_scales(q_, band, block_scales_.get());
  if (column_scales_ != nullptr) expand_blocks(block_scales_.get(), q_.block_cols(), q_.cols, column_scales_.get());
}

void RowDecoder::operator()(std::int64_t r, float* out) {
  const std::int64_t n = q_.cols;
  switch (q_.element) {
    case ElementFormat::F32: std::copy_n(q_.codes.data<float>() + r * n, n, out); return;
    case ElementFormat::BF16: return widen(q_.codes.data<bf16>() + r * n, n, out);
    case ElementFormat::E2M1: decode_e2m1(q_.codes.data<std::uint8_t>() + r * q_.code_row_bytes(), n, out); break;
    case ElementFormat::Int4: decode_int4(q_.codes.data<std::uint8_t>() + r * q_.code_row_bytes(), n, out); break;
    case ElementFormat::E3M0: decode_e3m0(q_.codes.data<std::uint8_t>() + r * q_.code_row_bytes(), n, out); break;
    case ElementFormat::E4M3: decode_e4m3(q_.codes.data<std::uint8_t>() + r * n, n, out); break;
    case ElementFormat::E5M2: decode_e5m2(q_.codes.data<std::uint8_t>() + r * n, n, out); break;
  }
  set_scales(r / q_.block_rows());
  if (q_.block_cols() >= n) {
    scale_row(out, block_scales_[0], n);
  } else {
    scale_row(out, column_scales_ != nullptr ? column_scales_.get() : block_scales_.get(), n);
  }
  // A product of an element and a UE4M3 scale is exact, so the scale above rounds once.
  if (q_.outer_scales.defined()) multiply_outer(r, out);
  if (q_.tensor_scale != 1.0f) scale_row(out, q_.tensor_scale, n);
}

void RowDecoder::multiply_outer(std::int64_t r, float* out) const {
  const std::int64_t count = q_.outer_scales.cols();
  const float* outer = q_.outer_scales.data<float>() + r * count;
  for (std::int64_t j = 0; j < count; ++j) {
    scale_row(out + j * q_.outer, outer[j], std::min(q_.outer, q_.cols - j * q_.outer));
  }
}

void add_residual(const CsrMatrix& residual, std::int64_t r, float* row) {
  if (!residual.defined()) return;
  const std::int32_t* begin = residual.row_begin.data<std::int32_t>();
  const std::int32_t* col = residual.col.data<std::int32_t>();
  const float* value = residual.value.data<float>();
  for (std::int32_t i = begin[r]; i < begin[r + 1]; ++i) row[col[i]] += value[i];
}

}  // namespace nibble::quant_cpu
