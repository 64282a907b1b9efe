// Products of four-bit operands whose scales lie along the contraction in blocks, on integer codes.
#pragma once

#include "nibble/ops/cpu/block_dot.h"
#include "nibble/ops/cpu/gemm_epilogue.h"
#include "nibble/ops/gemm.h"

namespace nibble::cpu {

/// The block length of the kernel for this product, 32 or 16: no inner scale of either operand varies within an aligned
/// block of that many elements of the contraction. 0 if there is none, or if the operands are no four-bit codes whose
/// products the kernels sum exactly (all pairs are but E3M0 by E3M0).
std::int64_t block_dot_length(const GemmOperand& a, const GemmOperand& b);

/// C by `kernel`; block_dot_length is not 0. The epilogue has no compensation; its unit is set here.
void gemm_block(const GemmOperand& a, const GemmOperand& b, Epilogue epilogue, const BlockDotKernel& kernel,
                Arena& scratch);

}  // namespace nibble::cpu
