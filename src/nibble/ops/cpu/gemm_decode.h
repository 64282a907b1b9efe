// From the stored form of an operand to the dense elements that a matrix product reads.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble::cpu {

/// The integers that stand for the codes of a four-bit format: value = unit * integer, |integer| <= largest.
///
///   E2M1  unit 1/2, largest 12      Int4  unit 1, largest 7      E3M0  unit 1/4, largest 64
///
/// As an unsigned operand they go in plus `largest`.
struct IntegerCodes {
  float unit;
  int largest;
};
IntegerCodes integer_codes(ElementFormat element);

/// The length of the aligned blocks of the contraction in which no scale varies; 0 where none varies at all.
std::int64_t inner_block(const GemmOperand& x);

/// True if every element, inner scales multiplied in, is exactly a BF16 number (subnormals aside): BF16 values; codes;
/// codes times inner scales that are powers of two; four-bit codes (at most 3 significant bits) times UE4M3 scales (4).
bool exact_in_bf16(const GemmOperand& x);

/// The factors left to the epilogue, one for each row or column of C.
void fill_outer_scales(const GemmOperand& x, float* scales);

/// Inner scales of rows [begin, end) along C, one for each block of `length` elements of the contraction:
/// out[end - begin, stride], of which ceil(inner_extent / length) columns are written. `length` divides inner_block.
void fill_block_scales(const GemmOperand& x, std::int64_t begin, std::int64_t end, std::int64_t length, float* out,
                       std::int64_t stride);
/// The inner scales of stored elements (r, [c, c + n)).
void expand_scales(const GemmOperand& x, std::int64_t r, std::int64_t c, std::int64_t n, float* out);

/// Elements [r0, r1) x [c0, c1) of the stored matrix as out[r1 - r0, stride], inner scales multiplied in where there
/// are any. The element is, by T,
///
///   int8_t   the integer of a four-bit code, no scales (c0 even)
///   uint8_t  the same plus the largest of its format
///   bf16     the value          (exact_in_bf16 only)
///   float    the value, code * scale rounded once
template <class T>
void decode_stored(const GemmOperand& x, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1, T* out,
                   std::int64_t stride);

/// Elements the transposed case of decode_outer needs as scratch, for `width` rows of its result.
inline std::int64_t decode_scratch(std::int64_t width) { return 64 * width; }

/// Rows [begin, end) along C of the operand with the contraction last: out[end - begin, stride], of which inner_extent
/// columns are written.
template <class T>
void decode_outer(const GemmOperand& x, std::int64_t begin, std::int64_t end, T* out, std::int64_t stride, T* scratch);

}  // namespace nibble::cpu
