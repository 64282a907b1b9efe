// Attention by kernels of our own, in FP32 on the CUDA cores: for F32 tensors, for machines without cuDNN and for
// shapes that it refuses.
#pragma once

#include "nibble/ops/attention.h"

namespace nibble::cuda {

/// attention_forward and attention_backward of F32 or BF16 tensors that are already validated and not empty; any seq,
/// head_dim up to 256. Deterministic: no sum depends on the order in which blocks run.
void plain_attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse);
void plain_attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const Tensor& dout, const Tensor& dqkv, Arena& scratch);

}  // namespace nibble::cuda
