// Inputs of linear layers that are quantised as they are made, where nothing else reads them.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble {

/// Whether the functions below make rows of `cols` elements and quantise them in one pass, so that they are never
/// written: on a GPU, where the codes follow from the row alone and a thread block can hold it. Today that is E2M1,
/// rounded to nearest under one absmax scale a row, within quantiles of the row (Wang et al. 2025, section 3.2, with
/// any residual but the dense one).
bool fuses_quantize(const QuantSpec& spec, std::int64_t cols, Device device);

/// y = rmsnorm_forward(x, gain, eps) in BF16 (rmsnorm.h), which also fills rstd; then quantize(y, spec, context,
/// arena): the same bits. x F32 [T, d]; gain F32 [d]; rstd F32 [T]. Where that takes two passes, y lies in `scratch`,
/// which is another arena.
QTensor rmsnorm_quantize(const Tensor& x, const Tensor& gain, float eps, const Tensor& rstd, const QuantSpec& spec,
                         const QuantizeContext& context, Arena& arena, Arena& scratch);

/// y = swiglu_forward(gate_up) in BF16 (swiglu.h), then likewise. gate_up BF16 [T, 2F].
QTensor swiglu_quantize(const Tensor& gate_up, const QuantSpec& spec, const QuantizeContext& context, Arena& arena,
                        Arena& scratch);

}  // namespace nibble
