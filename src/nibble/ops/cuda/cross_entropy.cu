// Softmax cross-entropy, bound by memory: a block for each row. The row is read once; on the way each thread keeps a
// running maximum and its sum of exponentials, which the block then combines. For the gradient the row is needed a
// second time: what shared memory holds of it (56k floats on Hopper: whole rows of vocabularies up to that) waits
// there, the rest is read again, mostly from L2.
//
// A target beyond the vocabulary cannot be refused here without waiting for the GPU: it makes the row's loss NaN.
#include <limits>
#include <type_traits>

#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/fast_math.cuh"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

/// sum_v exp(x[v]) = sum * exp(max). The start is finite so that -inf alone (masked entries) gives exp(-inf) = 0 and
/// not exp(-inf + inf). NaN is passed over by max and shows in the sum.
struct SumExp {
  float max = std::numeric_limits<float>::lowest();
  float sum = 0;
};

/// The same bits whichever of the two comes first.
__device__ __forceinline__ SumExp combine(const SumExp& a, const SumExp& b) {
  const float max = fmaxf(a.max, b.max);
  return {max, a.sum * exp_fast(a.max - max) + b.sum * exp_fast(b.max - max)};
}

__device__ __forceinline__ SumExp warp_combine(SumExp s) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    s = combine(s, {__shfl_xor_sync(0xFFFF'FFFFu, s.max, offset), __shfl_xor_sync(0xFFFF'FFFFu, s.sum, offset)});
  }
  return s;
}

/// Over the block, in each of its threads.
template <int kThreads>
__device__ __forceinline__ SumExp block_combine(SumExp s) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float max[kWarps], sum[kWarps];
  const int lane = threadIdx.x % 32;
  s = warp_combine(s);
  if (lane == 0) {
    max[threadIdx.x / 32] = s.max;
    sum[threadIdx.x / 32] = s.sum;
  }
  __syncthreads();
  return warp_combine(lane < kWarps ? SumExp{max[lane], sum[lane]} : SumExp{});
}

/// This thread's share of a row; elements before `cached` also go to `cache`.
template <int kWidth, int kThreads>
__device__ SumExp thread_sum_exp(const float* row, std::int64_t vocab, float* cache, std::int64_t cached) {
  constexpr int kInFlight = 16 / kWidth;
  constexpr float kMissing = -std::numeric_limits<float>::infinity();
  SumExp s;
  for (std::int64_t first = threadIdx.x * kWidth; first < vocab; first += kInFlight * kThreads * kWidth) {
    float v[kInFlight][kWidth];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const std::int64_t i = first + u * kThreads * kWidth;
      if (i < vocab) {
        load_floats(row + i, v[u]);
      } else {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) v[u][k] = kMissing;
      }
    }
    float max = s.max;
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const std::int64_t i = first + u * kThreads * kWidth;
      if (i < cached) store_floats(cache + i, v[u]);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) max = fmaxf(max, v[u][k]);
    }
    float sum = s.sum * exp_fast(s.max - max);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum += exp_fast(v[u][k] - max);
    }
    s = {max, sum};
  }
  return s;
}

__device__ __forceinline__ float row_loss(const SumExp& s, float target_logit) {
  return logf(s.sum) + (s.max - target_logit);
}

template <int kWidth, int kThreads>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const float* logits, const std::int32_t* targets, float* loss, std::int64_t vocab) {
  const std::int64_t r = blockIdx.x;
  const float* row = logits + r * vocab;
  const std::int32_t target = targets[r];
  if (target < 0) {
    if (threadIdx.x == 0) loss[r] = 0;
    return;
  }
  const SumExp s = block_combine<kThreads>(thread_sum_exp<kWidth, kThreads>(row, vocab, nullptr, 0));
  if (threadIdx.x == 0) {
    loss[r] = row_loss(s, target < vocab ? row[target] : std::numeric_limits<float>::quiet_NaN());
  }
}

/// dlogits may be logits: an element is written by the thread that read it, after the block's last barrier.
template <int kWidth, int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    forward_backward_kernel(const float* logits, const std::int32_t* targets, float scale, float* loss, T* dlogits,
                            std::int64_t vocab, std::int64_t cached) {
  extern __shared__ float4 cache_memory[];
  auto* cache = reinterpret_cast<float*>(cache_memory);
  const std::int64_t r = blockIdx.x;
  const float* row = logits + r * vocab;
  T* to = dlogits + r * vocab;
  const std::int32_t target = targets[r];
  if (target < 0) {
    if (threadIdx.x == 0) loss[r] = 0;
    const float zeros[kWidth] = {};
    for (std::int64_t i = threadIdx.x * kWidth; i < vocab; i += kThreads * kWidth) store_floats(to + i, zeros);
    return;
  }
  const float target_logit = target < vocab ? row[target] : std::numeric_limits<float>::quiet_NaN();
  const SumExp s = block_combine<kThreads>(thread_sum_exp<kWidth, kThreads>(row, vocab, cache, cached));
  if (threadIdx.x == 0) loss[r] = row_loss(s, target_logit);
  const float factor = scale / s.sum;
  const auto write = [&](std::int64_t i, float(&v)[kWidth]) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = exp_fast(v[k] - s.max) * factor;
    const std::int64_t at = target - i;
    if (at >= 0 && at < kWidth) {
      // p - 1 from the unrounded p: in BF16 a rounded p near 1 would leave nothing of the difference.
      const float own = scale * (exp_fast(target_logit - s.max) / s.sum - 1.0f);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v[k] = at == k ? own : v[k];
    }
    store_floats(to + i, v);
  };
  std::int64_t i = threadIdx.x * kWidth;
  for (; i < cached; i += kThreads * kWidth) {
    float v[kWidth];
    load_floats(cache + i, v);
    write(i, v);
  }
  constexpr int kInFlight = 16 / kWidth;
  for (; i < vocab; i += kInFlight * kThreads * kWidth) {
    float v[kInFlight][kWidth];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (i + u * kThreads * kWidth < vocab) load_floats(row + i + u * kThreads * kWidth, v[u]);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (i + u * kThreads * kWidth < vocab) write(i + u * kThreads * kWidth, v[u]);
    }
  }
}

/// Floats of a row that fit into a block's shared memory beside the 1 KiB that is left to the compiler and the driver,
/// in whole turns of 1024 threads of four floats.
std::int64_t most_cached() {
  static const std::int64_t floats = [] {
    int device = 0;
    int bytes = 0;
    check(cudaGetDevice(&device), "asking for the GPU");
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
    return static_cast<std::int64_t>(bytes - 1024) / 4 / 4096 * 4096;
  }();
  return floats;
}

/// Narrow rows get small blocks, several of them to a multiprocessor; calls f(number of threads).
template <class F>
void with_threads(std::int64_t vocab, F&& f) {
  if (vocab <= 8192) return f(std::integral_constant<int, 256>());
  f(std::integral_constant<int, 1024>());
}
template <class F>
void with_width(bool packed, F&& f) {
  if (packed) return f(std::integral_constant<int, 4>());
  f(std::integral_constant<int, 1>());
}

}  // namespace

void cross_entropy_forward(const Tensor& logits, const Tensor& targets, const Tensor& loss) {
  if (logits.rows() == 0) return;
  const std::int64_t vocab = logits.cols();
  const auto* x = device_data<float>(logits, "cross_entropy_forward");
  const auto* target = device_data<std::int32_t>(targets, "cross_entropy_forward");
  auto* out = device_data<float>(loss, "cross_entropy_forward");
  const auto rows = static_cast<unsigned>(logits.rows());
  with_width(vocab % 4 == 0 && packs_fit(x), [&]<int kWidth>(std::integral_constant<int, kWidth>) {
    with_threads(vocab, [&]<int kThreads>(std::integral_constant<int, kThreads>) {
      forward_kernel<kWidth, kThreads><<<rows, kThreads, 0, stream()>>>(x, target, out, vocab);
    });
  });
  launched("cross_entropy_forward");
}

void cross_entropy_forward_backward(const Tensor& logits, const Tensor& targets, float scale, const Tensor& loss,
                                    const Tensor& dlogits) {
  if (logits.rows() == 0) return;
  const std::int64_t vocab = logits.cols();
  const auto* x = device_data<float>(logits, "cross_entropy_forward_backward");
  const auto* target = device_data<std::int32_t>(targets, "cross_entropy_forward_backward");
  auto* out = device_data<float>(loss, "cross_entropy_forward_backward");
  const auto rows = static_cast<unsigned>(logits.rows());
  const std::int64_t cached = std::min(vocab, most_cached());
  const auto shared = static_cast<std::size_t>((cached + 3) / 4 * 16);
  dispatch_float(dlogits.dtype(), [&]<class T>(T*) {
    auto* grad = device_data<T>(dlogits, "cross_entropy_forward_backward");
    with_width(vocab % 4 == 0 && packs_fit(x, grad), [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      with_threads(vocab, [&]<int kThreads>(std::integral_constant<int, kThreads>) {
        const auto kernel = forward_backward_kernel<kWidth, kThreads, T>;
        static const bool grown = [&] {
          check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(most_cached() * 4)),
                "asking for shared memory");
          return true;
        }();
        static_cast<void>(grown);
        kernel<<<rows, kThreads, shared, stream()>>>(x, target, scale, out, grad, vocab, cached);
      });
    });
  });
  launched("cross_entropy_forward_backward");
}

}  // namespace nibble::cuda
