// MXFP4 (E2M1 elements, an E8M0 scale for 32 of them along the contraction) as E4M3 under one scale a row.
//
//   value(r, k) = code * 2^(e - 127)      e: the scale byte of the element's block
//               = byte(r, k) * 2^(anchor - 127)
//
// An E2M1 number times 2^d is an E4M3 number for 15 consecutive exponents: from d = -8 (0.5 becomes 2^-9, the smallest
// subnormal) to d = 6 (6 becomes 384). The anchor is the largest e of a row, less 6, blocks of zeros left out. A block
// is in range if its e is within 14 of the largest, and the scale of its row, the tensor's included, within 2^-60 and
// 2^60, so that the product of two can be formed. Blocks out of range become zeros, and their rows are listed for
// mx_correction.h; a row whose scale is out of range, or NaN, is out of it as a whole, and has the scale 0.
#pragma once

#include "nibble/ops/cuda/lt_matmul.h"
#include "nibble/ops/gemm.h"

namespace nibble::cuda {

/// E2M1 in blocks of 1 x 32 with E8M0 scales, at least two along the contraction, stored with the contraction last.
bool is_mxfp4(const GemmOperand& x);

struct MxOperand {
  LtMatrix bytes;                 ///< [rows, K], both rounded up, as fp8_operand has it
  const float* scales;            ///< [outer_extent]; 0 for the rows out of range
  const std::uint8_t* is_listed;  ///< [outer_extent]; 1 for a row that has blocks out of range
  const std::uint16_t*
      left_out;  ///< [outer_extent, left_out_words]; of a listed row, bit b % 16 of word b / 16: block b
  std::int64_t left_out_words;
  const std::int32_t* listed;    ///< the listed rows, in no order
  const std::int32_t* n_listed;  ///< how many
};

/// `n_listed` is on the device and zero. No host synchronisation.
MxOperand mx_operand(const GemmOperand& x, std::int64_t rows, std::int32_t* n_listed, Arena& scratch);

}  // namespace nibble::cuda
