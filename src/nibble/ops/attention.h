// Causal self-attention with grouped queries, flash style (Dao et al. 2022): blocks of queries against blocks of
// keys with a running softmax; no [T, T] matrix is ever in memory.
#pragma once

#include <string>

#include "nibble/tensor/tensor.h"

namespace nibble {

struct AttentionShape {
  std::int64_t batch = 0;
  std::int64_t seq = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< divides heads; query head h reads key/value head h / (heads / kv_heads)
  std::int64_t head_dim = 0;
};

/// O[t, h] = sum_{u <= t} softmax_u(q_t . k_u / sqrt(head_dim)) v_u, within each sequence.
/// qkv F32 or BF16 [batch * seq, (heads + 2 kv_heads) * head_dim] (q heads | k heads | v heads);
/// out of the same dtype [batch * seq, heads * head_dim]; lse F32 [batch * heads, seq]: log-sum-exp of the scores.
void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch);

/// dqkv (overwritten, layout of qkv) from dout. Scores are recomputed from qkv and lse.
void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch);

/// Who computes attention of this shape in BF16 on the device, for people to read: "own kernels", "cuDNN 9.19.0".
std::string attention_backend(const AttentionShape& shape, Device device);

}  // namespace nibble
