// Rotary position embedding (Su et al. 2021) in the half-split layout of Llama checkpoints in the Hugging Face
// format: dimension j pairs with j + head_dim / 2.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// cos and sin of position * theta^(-2 j / head_dim), computed in double: F32 [seq, head_dim / 2] each.
void rope_tables(float theta, const Tensor& cos, const Tensor& sin);

/// Rotates, in place, the query and key heads of qkv [batch * seq, (heads + 2 kv_heads) * head_dim] (layout
/// q heads | k heads | v heads; v is left alone), F32 or BF16. Row t has position t mod seq, seq = cos.rows():
///   (a, b) -> (a cos - b sin, a sin + b cos)
void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin);
/// The transpose of the rotation, in place on the gradient.
void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin);

}  // namespace nibble
