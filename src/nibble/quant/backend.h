// What each device of the quant room defines; the public functions choose by the tensor's device.
#pragma once

#include "nibble/quant/dge.h"
#include "nibble/quant/hadamard.h"
#include "nibble/quant/quantize.h"

namespace nibble::cpu {
#include "nibble/quant/backend-inl.h"
}  // namespace nibble::cpu

namespace nibble::cuda {
#include "nibble/quant/backend-inl.h"  // NOLINT(readability-duplicate-include): once in each namespace

/// What `requantize` (quant/requantize.h) does where requantizes_codes says so: on a GPU alone.
QTensor requantize_codes(const QTensor& q, const QuantSpec& spec, const QuantizeContext& context, Arena& arena);
}  // namespace nibble::cuda
