#include "nibble/quant/qtensor.h"

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/fp8.h"
#include "nibble/numerics/int4.h"

namespace nibble {

float element_max(ElementFormat element) {
  switch (element) {
    case ElementFormat::E2M1: return kE2M1Max;
    case ElementFormat::Int4: return kInt4Max;
    case ElementFormat::E3M0: return kE3M0Max;
    case ElementFormat::E4M3: return kE4M3Max;
    case ElementFormat::E5M2: return kE5M2Max;
    case ElementFormat::F32:
    case ElementFormat::BF16: return 0;
  }
  return 0;
}

int element_bits(ElementFormat element) {
  switch (element) {
    case ElementFormat::F32: return 32;
    case ElementFormat::BF16: return 16;
    case ElementFormat::E2M1:
    case ElementFormat::Int4:
    case ElementFormat::E3M0: return 4;
    case ElementFormat::E4M3:
    case ElementFormat::E5M2: return 8;
  }
  return 0;
}

ScaleFormat scale_format(ScaleRule rule) {
  switch (rule) {
    case ScaleRule::None: return ScaleFormat::None;
    case ScaleRule::Absmax:
    case ScaleRule::AbsmaxPow2:
    case ScaleRule::QuestExact:
    case ScaleRule::Sawb: return ScaleFormat::F32;
    case ScaleRule::OcpFloor:
    case ScaleRule::Ceil6:
    case ScaleRule::Nearest6:
    case ScaleRule::RangeMatch34:
    case ScaleRule::QuestFloor:
    case ScaleRule::QuestNearest:
    case ScaleRule::QuestCeil: return ScaleFormat::E8M0;
    case ScaleRule::Nvfp4: return ScaleFormat::UE4M3;
  }
  return ScaleFormat::None;
}

namespace {

/// The scale of one block as stored, without the outer and the tensor scale.
float stored_scale(const QTensor& q, std::int64_t r, std::int64_t c) {
  const std::int64_t index = r / q.block_rows() * q.scale_cols() + c / q.block_cols();
  switch (q.scale_format) {
    case ScaleFormat::None: return 1.0f;
    case ScaleFormat::F32: return q.scales.data<float>()[index];
    case ScaleFormat::E8M0: return e8m0_decode(q.scales.data<std::uint8_t>()[index]);
    case ScaleFormat::UE4M3: return e4m3_decode(q.scales.data<std::uint8_t>()[index]);
  }
  return 1.0f;
}

float outer_scale(const QTensor& q, std::int64_t r, std::int64_t c) {
  return q.outer_scales.defined() ? q.outer_scales.data<float>()[r * q.outer_scales.cols() + c / q.outer] : 1.0f;
}

std::uint8_t nibble_at(const QTensor& q, std::int64_t r, std::int64_t c) {
  const std::uint8_t byte = q.codes.data<std::uint8_t>()[r * q.code_row_bytes() + c / 2];
  return static_cast<std::uint8_t>(c % 2 == 0 ? byte & 15 : byte >> 4);
}

void require_inside(const QTensor& q, std::int64_t r, std::int64_t c) {
  require(0 <= r && r < q.rows && 0 <= c && c < q.cols, "element ({}, {}) of a [{}, {}] QTensor", r, c, q.rows, q.cols);
}

}  // namespace

QTensor QTensor::form_of(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  QTensor q;
  q.element = spec.element;
  q.rows = rows;
  q.cols = cols;
  q.granularity = spec.granularity;
  q.scale_format = nibble::scale_format(spec.scale);
  if (spec.scale == ScaleRule::Nvfp4) q.outer = spec.nvfp4.outer;
  return q;
}

QTensor QTensor::view(const Tensor& matrix) {
  require(matrix.dtype() == DType::BF16 || matrix.dtype() == DType::F32, "QTensor::view wants BF16 or F32, got {}",
          to_string(matrix));
  QTensor q;
  q.element = matrix.dtype() == DType::BF16 ? ElementFormat::BF16 : ElementFormat::F32;
  q.rows = matrix.rows();
  q.cols = matrix.cols();
  q.codes = matrix;
  return q;
}

float QTensor::scale_at(std::int64_t r, std::int64_t c) const {
  require_inside(*this, r, c);
  return stored_scale(*this, r, c) * outer_scale(*this, r, c) * tensor_scale;
}

float QTensor::value_at(std::int64_t r, std::int64_t c) const {
  require_inside(*this, r, c);
  float value = 0;
  switch (element) {
    case ElementFormat::F32: return codes.data<float>()[r * cols + c];
    case ElementFormat::BF16: return bf16_decode(codes.data<bf16>()[r * cols + c]);
    case ElementFormat::E2M1: value = e2m1_decode(nibble_at(*this, r, c)); break;
    case ElementFormat::Int4: value = int4_decode(nibble_at(*this, r, c)); break;
    case ElementFormat::E3M0: value = e3m0_decode(nibble_at(*this, r, c)); break;
    case ElementFormat::E4M3: value = e4m3_decode(codes.data<std::uint8_t>()[r * cols + c]); break;
    case ElementFormat::E5M2: value = e5m2_decode(codes.data<std::uint8_t>()[r * cols + c]); break;
  }
  return value * stored_scale(*this, r, c) * outer_scale(*this, r, c) * tensor_scale;
}

void allocate_parts(QTensor& q, bool mask, Arena& arena) {
  switch (q.element) {
    case ElementFormat::F32: q.codes = arena.allocate(DType::F32, {q.rows, q.cols}); break;
    case ElementFormat::BF16: q.codes = arena.allocate(DType::BF16, {q.rows, q.cols}); break;
    default: q.codes = arena.allocate(DType::U8, {q.rows, q.code_row_bytes()}); break;
  }
  if (mask) q.mask = arena.allocate(DType::U8, {q.rows, (q.cols + 7) / 8});
  if (q.scale_format == ScaleFormat::None) return;
  const DType dtype = q.scale_format == ScaleFormat::F32 ? DType::F32 : DType::U8;
  q.scales = arena.allocate(dtype, {q.scale_rows(), q.scale_cols()});
  if (q.outer > 0) q.outer_scales = arena.allocate(DType::F32, {q.rows, (q.cols + q.outer - 1) / q.outer});
}

std::size_t stored_bytes(const QTensor& q) {
  // A tensor scale takes four bytes where the format needs one to be decoded; 4/3 of RangeMatch34 is a constant.
  std::size_t bytes = q.scale_format == ScaleFormat::UE4M3 && !q.outer_scales.defined() ? sizeof(float) : 0;
  for (const Tensor* part : {&q.codes, &q.scales, &q.outer_scales, &q.mask}) {
    if (part->defined()) bytes += part->bytes();
  }
  return bytes;
}

}  // namespace nibble
