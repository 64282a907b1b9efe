// The part of a product of MXFP4 that its form as E4M3 leaves out (mx_operand.h).
#pragma once

#include "nibble/ops/cuda/mx_operand.h"

namespace nibble::cuda {

/// C[m, n] += sum over the blocks of 32 that row m of A or row n of B left out, in F32, of
/// (float(sum_k codes) * scale_a) * scale_b, times the tensor scales: what the integer path by block of the CPU gives
/// for them, exact but for the addition of blocks, whose order is always the same.
/// One thread adds to an element of C, once. How many rows are listed only the device knows. Counts them, too
/// (mx_row_count).
void add_left_out(const GemmOperand& a, const MxOperand& x, const GemmOperand& b, const MxOperand& y, const Tensor& c);

}  // namespace nibble::cuda
