// Where an operand of a product lies along C and along the contraction, and which of its scales wait for the epilogue.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble {

/// Extent of the operand along C, and along the contraction.
inline std::int64_t outer_extent(const GemmOperand& x) { return x.transposed ? x.matrix.cols : x.matrix.rows; }
inline std::int64_t inner_extent(const GemmOperand& x) { return x.transposed ? x.matrix.rows : x.matrix.cols; }

/// Whether the operand's scales take part in the product.
inline bool uses_scales(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  return (has_scale(q.element) || q.device_scale.defined() || q.tensor_scale != 1.0f) && !x.scales_folded;
}

/// Whether the block scales, or those of the second level, take part and vary along the contraction, so that they
/// cannot wait for the epilogue. The tensor scale never does.
inline bool block_scales_are_inner(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (!uses_scales(x) || q.scale_format == ScaleFormat::None) return false;
  return x.transposed ? q.block_rows() < q.rows : q.block_cols() < q.cols;
}
inline bool second_level_is_inner(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (!uses_scales(x) || !q.outer_scales.defined()) return false;
  return x.transposed ? q.rows > 1 : q.outer < q.cols;
}
inline bool has_inner_scales(const GemmOperand& x) { return block_scales_are_inner(x) || second_level_is_inner(x); }

}  // namespace nibble
