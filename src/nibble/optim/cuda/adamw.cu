// AdamW in one pass: 28 bytes a parameter to and from memory for some forty instructions, so bound by memory. A thread
// takes four parameters of each of the four arrays in accesses of 16 bytes; the arithmetic is the CPU's, to the bit.
#include "nibble/optim/adamw_element.h"
#include "nibble/optim/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;

template <int kWidth>
__device__ __forceinline__ void update(float* param, const float* grad, float* m, float* v, const AdamWFactors& f,
                                       std::int64_t i) {
  const Pack<float, kWidth> g = load_pack<kWidth>(grad + i);
  Pack<float, kWidth> p = load_pack<kWidth>(param + i);
  Pack<float, kWidth> first = load_pack<kWidth>(m + i);
  Pack<float, kWidth> second = load_pack<kWidth>(v + i);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) adamw_element(f, g.v[k], p.v[k], first.v[k], second.v[k]);
  store_pack(param + i, p);
  store_pack(m + i, first);
  store_pack(v + i, second);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(float* param, const float* grad, float* m, float* v, AdamWFactors f, std::int64_t n) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t packs = n / kWidth;
  for (std::int64_t i = thread; i < packs; i += stride) update<kWidth>(param, grad, m, v, f, i * kWidth);
  if (thread < n - packs * kWidth) update<1>(param, grad, m, v, f, packs * kWidth + thread);
}

}  // namespace

void adamw_step(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const AdamWStep& step) {
  const std::int64_t n = param.numel();
  const AdamWFactors factors = adamw_factors(step);
  if (n == 0) return;
  auto* p = device_data<float>(param, "adamw_step");
  const auto* g = device_data<float>(grad, "adamw_step");
  auto* first = device_data<float>(m, "adamw_step");
  auto* second = device_data<float>(v, "adamw_step");
  if (packs_fit(p, g, first, second)) {
    adamw_kernel<4><<<grid_for((n + 3) / 4, kThreads), kThreads, 0, stream()>>>(p, g, first, second, factors, n);
  } else {
    adamw_kernel<1><<<grid_for(n, kThreads), kThreads, 0, stream()>>>(p, g, first, second, factors, n);
  }
  launched("adamw_step");
}

}  // namespace nibble::cuda
