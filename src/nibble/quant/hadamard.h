// Blockwise Hadamard transforms of the rows of a matrix.
//
//   H_1 = [1], H_2n = [[H, H], [H, -H]]; entry sign (-1)^popcount(i & j); H / sqrt(g) is symmetric and orthogonal.
//   forward   x' = x diag(s) H / sqrt(g)     (signs first; with signs_last x' = x H diag(s) / sqrt(g))
//   inverse   x  = x' H diag(s) / sqrt(g)    (with signs_last the reverse)
//
// Both operands of a product use the same transform: (A R)(B R)^T = A B^T.
#pragma once

#include "nibble/numerics/philox.h"
#include "nibble/quant/quant_spec.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// s_c for c in [0, group): +1 or -1. Plus: all +1; Vector: NVIDIA's sixteen; Step and Call: bit c % 32 of
/// stream.word(c / 32), 1 meaning -1.
void hadamard_signs(const Hadamard& transform, const RandomStream& stream, float* signs);

/// out = x transformed group by group along each row; x F32 or BF16 [rows, cols], out F32 or BF16 of the same shape,
/// and may be x. F32 arithmetic: log2(g) levels of sums and differences, the 1/sqrt(g) last, one multiplication. Exact
/// involution up to rounding. cols must be a multiple of the group.
void hadamard_forward(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out);
void hadamard_inverse(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out);

}  // namespace nibble
