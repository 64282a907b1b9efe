// The single passes of ops/fused_quantize.h, for what fuses_quantize holds of.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble::cuda {

QTensor rmsnorm_quantize(const Tensor& x, const Tensor& gain, float eps, const Tensor& rstd, const QuantSpec& spec,
                         const QuantizeContext& context, Arena& arena);
QTensor swiglu_quantize(const Tensor& gate_up, const QuantSpec& spec, const QuantizeContext& context, Arena& arena);

}  // namespace nibble::cuda
