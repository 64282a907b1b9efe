// RMSNorm over each query and key head before the rotary embedding ("QK norm", Dehghani et al. 2023), as in Qwen3: all
// query heads share one gain, all key heads another.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// The gains of a block's heads, F32 [head_dim] each.
struct HeadGains {
  Tensor query;
  Tensor key;
};

/// In place on the query and key heads of qkv [T, (heads + 2 kv_heads) * head_dim] (layout q heads | k heads | v heads;
/// v is left alone), F32 or BF16:
///   x[t, h, i] -> x[t, h, i] * rstd[t, h] * gain[i],   rstd[t, h] = 1 / sqrt(mean_i x[t, h, i]^2 + eps)
/// before: a copy of x, [T, (heads + kv_heads) * head_dim] in qkv's dtype, which the backward reads, as it does
/// rstd F32 [T, heads + kv_heads].
void head_norm_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains, float eps,
                       const Tensor& before, const Tensor& rstd);

/// In place on the query and key heads of dqkv (layout and dtype of qkv), x = before:
///   dy[t, h, i] -> rstd (g_i dy_i - x_i rstd^2 mean_j(g_j dy_j x_j)),   dgain[i] += sum_{t, h} dy x rstd
void head_norm_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains,
                        const Tensor& before, const Tensor& rstd, const HeadGains& dgains, Arena& scratch);

}  // namespace nibble
