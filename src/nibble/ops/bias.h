// The bias of a linear layer, as Qwen2's query, key and value projections have one.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// y[t, i] += bias[i]. y F32 or BF16 [T, N], bias F32 [N].
void bias_forward(const Tensor& y, const Tensor& bias);

/// dbias[i] += sum_t dy[t, i], in an order that T alone decides. dy F32 or BF16 [T, N], dbias F32 [N].
void bias_backward(const Tensor& dy, const Tensor& dbias, Arena& scratch);

}  // namespace nibble
