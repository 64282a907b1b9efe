// Softmax cross-entropy over a chunk of rows of logits; the model's head calls it chunk by chunk, so the logits
// of a whole batch are never in memory.
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

/// loss[r] = logsumexp_v(logits[r, v]) - logits[r, target[r]] in nats; 0 where target[r] < 0 (ignored position).
/// logits F32 [R, V]; targets I32 [R]; loss F32 [R].
void cross_entropy_forward(const Tensor& logits, const Tensor& targets, const Tensor& loss);

/// The same, and dlogits[r, v] = scale * (softmax(logits[r])[v] - [v == target[r]]), zero for ignored rows.
/// dlogits is F32 or BF16 [R, V] and may be `logits` itself when it is F32.
void cross_entropy_forward_backward(const Tensor& logits, const Tensor& targets, float scale, const Tensor& loss,
                                    const Tensor& dlogits);

}  // namespace nibble
