// Token embedding.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// x[t, :] = table[tokens[t], :]. tokens I32 [T] in [0, V); table F32 [V, d]; x F32 or BF16 [T, d].
void embedding_forward(const Tensor& tokens, const Tensor& table, const Tensor& x);
/// dtable[tokens[t], :] += dx[t, :], added in ascending t for each row of the table. dx F32 or BF16; dtable F32.
void embedding_backward(const Tensor& tokens, const Tensor& dx, const Tensor& dtable, Arena& scratch);

}  // namespace nibble
