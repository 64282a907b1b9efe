// BF16 attention through cuDNN. The library is opened when it is first needed and may be absent; shapes that it refuses
// are the plain kernels' (attention_plain.h).
#pragma once

#include <string>

#include "nibble/ops/attention.h"

namespace nibble::cuda {

/// attention_forward and attention_backward of BF16 tensors that are already validated and not empty. False: cuDNN is
/// absent or refuses the shape, and nothing has been computed.
/// The deterministic backward keeps a gradient of every score, at most 1 GiB at a time; the other one adds its shares
/// of dq in the order in which they happen to come.
bool cudnn_attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                             Arena& scratch);
bool cudnn_attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const Tensor& dout, const Tensor& dqkv, Arena& scratch, bool deterministic = true);

/// What computes BF16 attention of this shape on the GPU: "cuDNN 9.19.0", or "own kernels (<why not cuDNN>)".
std::string attention_backend(const AttentionShape& shape);

}  // namespace nibble::cuda
