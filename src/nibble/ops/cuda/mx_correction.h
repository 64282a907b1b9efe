// The part of a product of MXFP4 that its form as E4M3 leaves out (mx_operand.h).
#pragma once

#include "nibble/ops/cuda/mx_operand.h"

namespace nibble::cuda {

/// C[m, n] += sum over the blocks of 32, ascending, in F32, of (float(sum_k codes) * scale_a) * scale_b, times the
/// tensor scales, for the rows m of A and the columns n (rows of B) that are listed: what the integer path by block of
/// the CPU gives, exact but for the addition of blocks, and the CPU's bits wherever no scaled sum leaves F32. What C
/// held there is kept exactly by a product of mx_operand's bytes, and none of these elements is added to twice. How
/// many rows are listed only the device knows. Counts them, too (mx_row_count).
void add_listed_rows(const GemmOperand& a, const MxOperand& x, const GemmOperand& b, const MxOperand& y,
                     const Tensor& c);

}  // namespace nibble::cuda
