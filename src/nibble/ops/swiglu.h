// SwiGLU (Shazeer 2020).
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble {

/// y[t, j] = silu(gate[t, j]) * up[t, j], silu(a) = a / (1 + exp(-a)). gate_up F32 or BF16 [T, 2F]: gate | up;
/// y F32 or BF16 [T, F].
void swiglu_forward(const Tensor& gate_up, const Tensor& y);
/// dgate = dy up silu'(gate), dup = dy silu(gate); d_gate_up [T, 2F] overwritten, may be gate_up itself. `raise`:
/// magnitudes that are raised to those of d_gate_up, on a GPU.
void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up,
                     const PairMagnitudes& raise = {});

}  // namespace nibble
