// The trust mask of QuEST (Quartet, section 3.1 of arXiv 2505.14669): the gradient passes through the rounding of an
// element only where |x / s| < 6.
#pragma once

#include "nibble/quant/hadamard.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// gradient[r, c] = 0 where bit c % 8 of mask byte (r, c / 8) is 0. gradient F32 or BF16 [rows, cols], mask U8
/// [rows, ceil(cols / 8)].
void apply_trust_mask(const Tensor& gradient, const Tensor& mask);

/// The way of a gradient back through an operand that was rounded in the basis of `transform`: the mask, then
/// hadamard_inverse. out F32 or BF16 [rows, cols] may be gradient, whose elements are undefined afterwards if it is
/// not. An undefined mask clears nothing.
void masked_hadamard_inverse(const Tensor& gradient, const Tensor& mask, const Hadamard& transform,
                             const RandomStream& stream, const Tensor& out);

}  // namespace nibble
