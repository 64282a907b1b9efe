// From the stored form of an operand to the dense elements that a matrix product reads.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble::cpu {

/// What is added to twice an E2M1 value to make it an unsigned 8-bit operand: 2 x E2M1 is in [-12, 12].
inline constexpr int kUnsignedOffset = 12;

/// Extent of the operand along C, and along the contraction.
inline std::int64_t outer_extent(const GemmOperand& x) { return x.transposed ? x.matrix.cols : x.matrix.rows; }
inline std::int64_t inner_extent(const GemmOperand& x) { return x.transposed ? x.matrix.rows : x.matrix.cols; }

/// True if block scales take part in the product and vary along the contraction, so that they cannot wait for the
/// epilogue. The tensor scale never does.
bool has_inner_scales(const GemmOperand& x);

/// True if every element, inner scales multiplied in, is exactly a BF16 number (subnormals aside): BF16 values; codes;
/// codes times inner scales that are powers of two; E2M1 codes (2 significant bits) times UE4M3 scales (4).
bool exact_in_bf16(const GemmOperand& x);

/// The factors left to the epilogue, one for each row or column of C.
void fill_outer_scales(const GemmOperand& x, float* scales);

/// Elements [r0, r1) x [c0, c1) of the stored matrix, dense and row-major, inner scales multiplied in where there are
/// any. The element is, by T,
///
///   int8_t   2 x E2M1           (E2M1 without inner scales only; c0 even)
///   uint8_t  2 x E2M1 + 12      (the same)
///   bf16     the value          (exact_in_bf16 only)
///   float    the value, code * scale rounded once
template <class T>
void decode_stored(const GemmOperand& x, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1, T* out);

/// Elements the transposed case of decode_outer needs as scratch, for `width` rows of its result.
inline std::int64_t decode_scratch(std::int64_t width) { return 64 * width; }

/// Rows [begin, end) along C of the operand with the contraction last: out[end - begin, inner_extent].
template <class T>
void decode_outer(const GemmOperand& x, std::int64_t begin, std::int64_t end, T* out, T* scratch);

}  // namespace nibble::cpu
