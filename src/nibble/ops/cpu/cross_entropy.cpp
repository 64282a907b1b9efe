#include <cmath>
#include <limits>

#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/lanes.h"
#include "nibble/ops/cpu/vector_math.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kBlock = 2048;  // 8 KiB of logits: the second look at a block finds it in L1

// The start is finite so that a block of -inf alone (masked entries) gives exp(-inf) = 0 and not exp(-inf + inf).
// NaN is passed over: it shows in the sum.
NIBBLE_SIMD float block_max(const float* x, std::int64_t n) {
  float lane[kLanes];
  for (int l = 0; l < kLanes; ++l) lane[l] = std::numeric_limits<float>::lowest();
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  }
  for (; i < n; ++i) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
  for (int l = 1; l < kLanes; ++l) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
  return lane[0];
}

NIBBLE_SIMD float block_sum_exp(const float* x, float max, std::int64_t n) {
  return lane_sum<float>(
      n, [=](std::int64_t i) __attribute__((always_inline)) { return exp_approx(x[i] - max); });
}

NIBBLE_SIMD void softmax_scaled(const float* x, float max, float factor, float* __restrict out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = exp_approx(x[i] - max) * factor;
}
NIBBLE_SIMD void softmax_scaled(const float* x, float max, float factor, bf16* __restrict out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = bf16_encode(exp_approx(x[i] - max) * factor);
}
NIBBLE_SIMD void softmax_scaled_in_place(float* x, float max, float factor, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = exp_approx(x[i] - max) * factor;
}

// sum_v exp(x[v]) = sum * exp(max).
struct SumExp {
  float max = std::numeric_limits<float>::lowest();
  double sum = 0;
};

// One pass over memory: block by block with a running maximum, the sum rescaled whenever the maximum rises.
SumExp sum_exp(const float* x, std::int64_t n) {
  SumExp s;
  for (std::int64_t b = 0; b < n; b += kBlock) {
    const std::int64_t size = std::min(kBlock, n - b);
    const float max = block_max(x + b, size);
    if (max > s.max) {
      s.sum *= std::exp(static_cast<double>(s.max) - static_cast<double>(max));
      s.max = max;
    }
    s.sum += static_cast<double>(block_sum_exp(x + b, s.max, size));
  }
  return s;
}

float row_loss(const float* x, const SumExp& s, std::int32_t target, std::int64_t row, std::int64_t vocab) {
  require(target < vocab, "target {} of row {} in a vocabulary of {}", target, row, vocab);
  return static_cast<float>(std::log(s.sum) + (static_cast<double>(s.max) - static_cast<double>(x[target])));
}

}  // namespace

void cross_entropy_forward(const Tensor& logits, const Tensor& targets, const Tensor& loss) {
  const std::int64_t vocab = logits.cols();
  const float* x = logits.data<float>();
  const std::int32_t* target = targets.data<std::int32_t>();
  float* out = loss.data<float>();
  parallel_for(logits.rows(), rows_per_chunk(vocab * 4), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = x + r * vocab;
      out[r] = target[r] < 0 ? 0.0f : row_loss(row, sum_exp(row, vocab), target[r], r, vocab);
    }
  });
}

void cross_entropy_forward_backward(const Tensor& logits, const Tensor& targets, float scale, const Tensor& loss,
                                    const Tensor& dlogits) {
  const bool in_place = dlogits.raw() == logits.raw();
  const std::int64_t vocab = logits.cols();
  float* x = logits.data<float>();
  const std::int32_t* target = targets.data<std::int32_t>();
  float* out = loss.data<float>();
  dispatch_float(dlogits.dtype(), [&]<class T>(T*) {
    T* grad = dlogits.data<T>();
    parallel_for(logits.rows(), rows_per_chunk(vocab * 4), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const float* row = x + r * vocab;
        T* grad_row = grad + r * vocab;
        if (target[r] < 0) {
          out[r] = 0.0f;
          std::fill(grad_row, grad_row + vocab, T{});
          continue;
        }
        const SumExp s = sum_exp(row, vocab);
        out[r] = row_loss(row, s, target[r], r, vocab);
        // p - 1 from the unrounded p: in BF16 a rounded p near 1 would leave nothing of the difference.
        const double p = std::exp(static_cast<double>(row[target[r]]) - static_cast<double>(s.max)) / s.sum;
        const auto factor = static_cast<float>(scale / s.sum);
        if (in_place) {
          softmax_scaled_in_place(x + r * vocab, s.max, factor, vocab);
        } else {
          softmax_scaled(row, s.max, factor, grad_row, vocab);
        }
        grad_row[target[r]] = from_float<T>(static_cast<float>(scale * (p - 1.0)));
      }
    });
  });
}

}  // namespace nibble::cpu
