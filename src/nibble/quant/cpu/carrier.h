// The carrier cast: E2M1 values under any scales, re-expressed in an 8-bit format under one scale of the tensor.
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble::quant_cpu {

/// Fills `carried`'s codes, scale and element scales (all allocated) from `elements`.
void carry(const QTensor& elements, QTensor& carried);

}  // namespace nibble::quant_cpu
