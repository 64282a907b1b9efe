// The trust mask of QuEST (Quartet, section 3.1 of arXiv 2505.14669): the gradient passes through the rounding of an
// element only where |x / s| < 6.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// gradient[r, c] = 0 where bit c % 8 of mask byte (r, c / 8) is 0. gradient F32 or BF16 [rows, cols], mask U8
/// [rows, ceil(cols / 8)].
void apply_trust_mask(const Tensor& gradient, const Tensor& mask);

}  // namespace nibble
