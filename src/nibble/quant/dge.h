// DGE, the differentiable gradient estimator of Wang et al. 2025 (section 3.1): the derivative of a smooth
// stand-in for the E2M1 rounding staircase, applied to the weight gradient.
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble {

/// On the grid interval [a, a + delta] that holds the scaled value x, with t = 2 (|x| - a) / delta - 1:
///
///   f'(x) = min( (1/k) |t|^(1/k - 1), clip )         0 for |x| > 6
///
/// k is the sharpness (paper: 5), clip the bound (paper: 3). At a grid point f' = 1/k, at a rounding threshold
/// f' = clip. Intervals have delta = 0.5 below 2, 1 below 4, 2 up to 6; membership is [lo, hi), the last closed.
float dge_derivative(float scaled, float k, float clip);

/// dw[r, c] *= f'(w[r, c] * (1/s)), s the decode scale of the E2M1 element at (r, c) (with a carrier that of
/// q.element_scales), the scaled weight bounded to +-6 so that rounding in the scale cannot push a row's maximum off
/// the grid. dw is F32 [rows, cols]; w is F32 or BF16, the matrix that q was quantised from. With spec.bf16_input
/// w, the scaled weight and f' are each rounded to BF16, as Wang et al.'s released code does. f' is within 2e-6
/// (relative) of dge_derivative, with the same bits on every CPU. k > 0.
void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip);

}  // namespace nibble
