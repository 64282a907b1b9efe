// From the stored form of an operand to the dense matrix that the tensor cores read.
#pragma once

#include "nibble/ops/cuda/lt_matmul.h"
#include "nibble/ops/gemm.h"

namespace nibble::cuda {

/// The elements are exact in E4M3 or E5M2, and no scale is inner.
bool exact_in_fp8(const GemmOperand& x);
/// Every element, inner scales multiplied in, is a BF16 number: decided without a look at the scales, so F32 ones along
/// the contraction count as inexact even where all are powers of two.
bool exact_in_bf16(const GemmOperand& x);

/// Extents and leading dimensions as the library's fastest kernels want them.
inline std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// The codes as bytes of E4M3 (E5M2 where the elements are), contiguous along the contraction: [rows, K], K rounded up
/// to 16, rows >= outer_extent; zeros beyond the operand. In place where it is stored so.
LtMatrix fp8_operand(const GemmOperand& x, std::int64_t rows, Arena& scratch);

/// The values, inner scales multiplied in, as BF16 or F32, in the stored orientation. In place where they are stored so
/// in aligned rows. BF16 values are exact for exact_in_bf16 alone; F32 ones are code * scale, rounded once.
LtMatrix wide_operand(const GemmOperand& x, LtType type, Arena& scratch);

}  // namespace nibble::cuda
