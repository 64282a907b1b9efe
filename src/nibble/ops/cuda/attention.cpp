#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/attention_cudnn.h"
#include "nibble/ops/cuda/attention_plain.h"

namespace nibble::cuda {
namespace {

void check(const AttentionShape& s, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  require(s.batch >= 0 && s.seq >= 0 && s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0,
          "attention: batch {}, seq {}, {} heads, {} key/value heads", s.batch, s.seq, s.heads, s.kv_heads);
  require(s.head_dim > 0 && s.head_dim <= 256, "attention: head_dim is 1 to 256, not {}", s.head_dim);
  require(qkv.dtype() == DType::F32 || qkv.dtype() == DType::BF16, "attention: qkv is {}", to_string(qkv));
  const std::int64_t tokens = s.batch * s.seq;
  require(qkv.numel() == tokens * (s.heads + 2 * s.kv_heads) * s.head_dim, "attention: qkv is {}", to_string(qkv));
  require(out.numel() == tokens * s.heads * s.head_dim && out.dtype() == qkv.dtype(), "attention: qkv is {}, out is {}",
          to_string(qkv), to_string(out));
  require(lse.numel() == s.heads * tokens && lse.dtype() == DType::F32, "attention: lse is {}", to_string(lse));
  for (const Tensor* tensor : {&qkv, &out, &lse}) {
    require(tensor->device() == Device::Cuda, "attention: {} should be on the GPU", to_string(*tensor));
  }
}

}  // namespace

void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch) {
  check(shape, qkv, out, lse);
  if (shape.batch * shape.seq == 0) return;
  if (qkv.dtype() == DType::BF16 && cudnn_attention_forward(shape, qkv, out, lse, scratch)) return;
  plain_attention_forward(shape, qkv, out, lse);
}

void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch) {
  check(shape, qkv, out, lse);
  require(dout.numel() == out.numel() && dout.dtype() == out.dtype() && dout.device() == Device::Cuda,
          "attention: out is {}, dout is {}", to_string(out), to_string(dout));
  require(dqkv.numel() == qkv.numel() && dqkv.dtype() == qkv.dtype() && dqkv.device() == Device::Cuda,
          "attention: qkv is {}, dqkv is {}", to_string(qkv), to_string(dqkv));
  if (shape.batch * shape.seq == 0) return;
  if (qkv.dtype() == DType::BF16 && cudnn_attention_backward(shape, qkv, out, lse, dout, dqkv, scratch)) return;
  plain_attention_backward(shape, qkv, out, lse, dout, dqkv, scratch);
}

}  // namespace nibble::cuda
