#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/attention_cudnn.h"
#include "nibble/ops/cuda/attention_plain.h"

namespace nibble::cuda {
void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch) {
  if (shape.batch * shape.seq == 0) return;
  if (qkv.dtype() == DType::BF16 && cudnn_attention_forward(shape, qkv, out, lse, scratch)) return;
  plain_attention_forward(shape, qkv, out, lse);
}

void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch) {
  if (shape.batch * shape.seq == 0) return;
  if (qkv.dtype() == DType::BF16 && cudnn_attention_backward(shape, qkv, out, lse, dout, dqkv, scratch)) return;
  plain_attention_backward(shape, qkv, out, lse, dout, dqkv, scratch);
}

}  // namespace nibble::cuda
