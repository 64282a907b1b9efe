// The inverse Hadamard transform with a mask, for the rooms above.
#pragma once

#include "nibble/quant/hadamard.h"

namespace nibble::quant_cuda {

/// hadamard_inverse of x with elements taken as 0 where bit c % 8 of mask byte (r, c / 8) is 0, in one pass. mask U8
/// [rows, ceil(cols / 8)], or undefined: no element is. out may be x.
void masked_hadamard_inverse(const Tensor& x, const Tensor& mask, const Hadamard& transform, const RandomStream& stream,
                             const Tensor& out);

}  // namespace nibble::quant_cuda
