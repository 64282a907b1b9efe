// Operands under one F32 scale for 128 elements along the contraction, as FP8 tensor cores multiply them on Hopper: the
// library scales the sum of each block of 128 products and adds it in F32.
#pragma once

#include "nibble/ops/gemm.h"

namespace nibble::cuda {

/// Whether the product of a and b is one of the library: four-bit or FP8 elements, not both E5M2, in blocks of 1 x 128
/// with F32 scales, stored with the contraction last, which 128 divides; both extents of C multiples of 16.
bool is_blocks128(const GemmOperand& a, const GemmOperand& b);

/// The block scales as the library reads them, [K / 128, outer extent rounded up to 4].
const float* blocks128_scales(const GemmOperand& x, Arena& scratch);

}  // namespace nibble::cuda
