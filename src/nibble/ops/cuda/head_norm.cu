// RMSNorm of query and key heads, bound by memory: every head is read and written once. A warp takes a head, whose
// elements lie in its registers, lane l those with index l, l + 32, ...: 64 to 256 bytes at a time, the widths that
// heads have. Backward runs on a fixed number of blocks, whatever the GPU, each with its own partial gradient of the
// gain in registers; blockIdx.y tells queries from keys.
#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/partial_sums.h"
#include "nibble/ops/cuda/reduction.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kWidest = 256;        // head_dim, as attention takes it
constexpr int kPartials = 132 * 4;  // blocks of backward: 32 warps for each of an H100's 132 multiprocessors

/// Where the heads lie. Heads [0, heads) of a row are queries, the next kv_heads keys.
struct Heads {
  std::int64_t rows;
  std::int64_t stride;  // elements of a row of qkv
  int heads, kv_heads, dim;

  __device__ int all() const { return heads + kv_heads; }
};

template <int kPerLane, class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* qkv, const float* q_gain, const float* k_gain, float eps, T* before, float* rstd, Heads at) {
  const int lane = threadIdx.x % 32;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= at.rows * at.all()) return;  // a whole warp
  const std::int64_t row = item / at.all();
  const int head = static_cast<int>(item - row * at.all());
  T* x = qkv + row * at.stride + static_cast<std::int64_t>(head) * at.dim;
  T values[kPerLane] = {};
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int i = lane + 32 * j;
    if (i < at.dim) values[j] = x[i];
    squares = fmaf(to_float(values[j]), to_float(values[j]), squares);
  }
  const float r = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(at.dim) + eps);
  if (lane == 0) rstd[item] = r;
  const float* gain = head < at.heads ? q_gain : k_gain;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int i = lane + 32 * j;
    if (i >= at.dim) continue;
    before[item * at.dim + i] = values[j];
    x[i] = from_float<T>(to_float(values[j]) * r * gain[i]);
  }
}

template <int kPerLane, class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(T* dqkv, const float* q_gain, const float* k_gain, const T* before, const float* rstd,
                    float* partial, Heads at) {
  __shared__ float sums[32 * kPerLane];
  const bool keys = blockIdx.y == 1;
  const int first = keys ? at.heads : 0;
  const int count = keys ? at.kv_heads : at.heads;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  float gain[kPerLane] = {};
  float total[kPerLane] = {};
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int i = lane + 32 * j;
    if (i < at.dim) gain[j] = (keys ? k_gain : q_gain)[i];
  }
  const std::int64_t items = at.rows * count;
  for (std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; item < items;
       item += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t row = item / count;
    const int head = first + static_cast<int>(item - row * count);
    T* dy = dqkv + row * at.stride + static_cast<std::int64_t>(head) * at.dim;
    const T* x = before + (row * at.all() + head) * at.dim;
    const float r = rstd[row * at.all() + head];
    float g[kPerLane] = {};
    float v[kPerLane] = {};
    float dot = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = lane + 32 * j;
      if (i < at.dim) {
        g[j] = to_float(dy[i]);
        v[j] = to_float(x[i]);
      }
      dot = fmaf(gain[j] * g[j], v[j], dot);
    }
    const float c = r * r * (warp_sum(dot) / static_cast<float>(at.dim));
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = lane + 32 * j;
      total[j] = fmaf(g[j], v[j] * r, total[j]);
      if (i < at.dim) dy[i] = from_float<T>(r * (gain[j] * g[j] - v[j] * c));
    }
  }
  for (int turn = 0; turn < kWarps; ++turn) {  // the warps' sums, one after the other
    if (turn == warp) {
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        float& sum = sums[lane + 32 * j];
        sum = turn == 0 ? total[j] : sum + total[j];
      }
    }
    __syncthreads();
  }
  float* to = partial + (static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * at.dim;
  for (int i = threadIdx.x; i < at.dim; i += kThreads) to[i] = sums[i];
}

/// Calls f with the elements a lane holds of a head of `dim`.
template <class F>
void with_lanes(std::int64_t dim, F&& f) {
  require(dim <= kWidest, "head_norm: heads have at most {} dimensions, not {}", kWidest, dim);
  if (dim <= 64) return f(std::integral_constant<int, 2>());
  if (dim <= 128) return f(std::integral_constant<int, 4>());
  f(std::integral_constant<int, 8>());
}

Heads heads_of(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, std::int64_t dim) {
  return {.rows = qkv.rows(),
          .stride = qkv.cols(),
          .heads = static_cast<int>(heads),
          .kv_heads = static_cast<int>(kv_heads),
          .dim = static_cast<int>(dim)};
}

}  // namespace

void head_norm_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains, float eps,
                       const Tensor& before, const Tensor& rstd) {
  if (qkv.numel() == 0) return;
  const std::int64_t dim = gains.query.numel();
  const float* q_gain = device_data<float>(gains.query, "head_norm_forward");
  const float* k_gain = device_data<float>(gains.key, "head_norm_forward");
  float* r = device_data<float>(rstd, "head_norm_forward");
  const Heads at = heads_of(qkv, heads, kv_heads, dim);
  const auto blocks = static_cast<unsigned>((at.rows * (heads + kv_heads) + kWarps - 1) / kWarps);
  dispatch_float(qkv.dtype(), [&]<class T>(T*) {
    T* data = device_data<T>(qkv, "head_norm_forward");
    T* copy = device_data<T>(before, "head_norm_forward");
    with_lanes(dim, [&]<int kPerLane>(std::integral_constant<int, kPerLane>) {
      forward_kernel<kPerLane><<<blocks, kThreads, 0, stream()>>>(data, q_gain, k_gain, eps, copy, r, at);
    });
  });
  launched("head_norm_forward");
}

void head_norm_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains,
                        const Tensor& before, const Tensor& rstd, const HeadGains& dgains, Arena& scratch) {
  if (dqkv.numel() == 0) return;
  const std::int64_t dim = gains.query.numel();
  const ArenaScope scope(scratch);
  float* partial = device_data<float>(scratch.allocate(DType::F32, {2 * kPartials, dim}), "head_norm_backward");
  const float* q_gain = device_data<float>(gains.query, "head_norm_backward");
  const float* k_gain = device_data<float>(gains.key, "head_norm_backward");
  const float* r = device_data<float>(rstd, "head_norm_backward");
  const Heads at = heads_of(dqkv, heads, kv_heads, dim);
  dispatch_float(dqkv.dtype(), [&]<class T>(T*) {
    T* data = device_data<T>(dqkv, "head_norm_backward");
    const T* x = device_data<T>(before, "head_norm_backward");
    with_lanes(dim, [&]<int kPerLane>(std::integral_constant<int, kPerLane>) {
      backward_kernel<kPerLane><<<dim3(kPartials, 2), kThreads, 0, stream()>>>(data, q_gain, k_gain, x, r, partial, at);
    });
  });
  launched("head_norm_backward");
  add_partial_sums(partial, kPartials, dim, device_data<float>(dgains.query, "head_norm_backward"));
  add_partial_sums(partial + kPartials * dim, kPartials, dim, device_data<float>(dgains.key, "head_norm_backward"));
}

}  // namespace nibble::cuda
