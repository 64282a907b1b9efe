// What a QuantSpec may not say, and what it may not be asked of.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble::quant_cpu {

/// Throws with a sentence where the spec contradicts itself, or does not fit x or the context.
void validate(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context);

}  // namespace nibble::quant_cpu
