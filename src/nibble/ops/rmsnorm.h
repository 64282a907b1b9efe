// RMSNorm (Zhang & Sennrich 2019), as in Llama.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble {

/// y[t, i] = x[t, i] * rstd[t] * gain[i],  rstd[t] = 1 / sqrt(mean_i x[t, i]^2 + eps).
/// x F32 or BF16 [T, d] (the residual stream is F32); gain F32 [d]; y F32 or BF16 [T, d]; rstd F32 [T].
void rmsnorm_forward(const Tensor& x, const Tensor& gain, float eps, const Tensor& y, const Tensor& rstd);

/// dx[t, i] += rstd (g_i dy_i - x_i rstd^2 mean_j(g_j dy_j x_j));  dgain[i] += sum_t dy x rstd.
/// dy F32 or BF16 [T, d]; dx F32 [T, d], accumulated into: it is the gradient of the residual stream. `raise`:
/// magnitudes that are raised to those of dx, on a GPU.
void rmsnorm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd, const Tensor& dx,
                      const Tensor& dgain, Arena& scratch, const PairMagnitudes& raise = {});

}  // namespace nibble
