// What each device of the quant room defines; the public functions choose by the tensor's device.
#pragma once

#include "nibble/quant/dge.h"
#include "nibble/quant/quantize.h"

namespace nibble::cpu {

QTensor quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena);
void dequantize(const QTensor& q, const Tensor& out);
QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch);
void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip);

}  // namespace nibble::cpu
