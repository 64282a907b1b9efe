// Products with a sparse matrix that is dense enough for tensor cores (ops/spmm.h).
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble::cuda {

/// Y += residual W^T, w_transposed BF16.
void dense_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena& scratch);

/// dW += dY^T residual.
void dense_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch);

}  // namespace nibble::cuda
