// Products with the sparse residual of outlier clamping (OCC, Wang et al. 2025, section 3.2), in F32.
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble {

/// Y[t, :] += sum over entries (t, i, v) of v * W[:, i]. `w_transposed` is F32 or BF16 [K, N]; y F32 or BF16 [T, N].
void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y);

/// dW[:, i] += sum over entries (t, i, v) of v * dY[t, :]. dy is F32 or BF16 [T, N], dw F32 [N, K]; entries of one
/// column are added in ascending t, whatever the number of threads.
void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch);

/// to [cols, rows] = from [rows, cols] transposed; F32 or BF16, both of one dtype or converting.
void transpose(const Tensor& from, const Tensor& to);

}  // namespace nibble
