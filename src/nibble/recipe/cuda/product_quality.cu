// Sums over two matrices in double. Bound by memory: 16-byte reads, element by element over a fixed number of blocks,
// so that the order of every sum depends on the shape alone. The blocks' sums are added on the CPU.
#include "nibble/recipe/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 512;

struct Sums {
  double exact, computed, dot, noise;
};
// What the blocks leave for the CPU. The one stream makes its users take turns, and they wait for their results.
__device__ Sums block_sums[kBlocks];
__device__ double block_distances[kBlocks];

/// The sum over the threads of a block, in thread 0; pairs of threads ever closer together.
__device__ double block_sum(double value) {
  __shared__ double lane[kThreads];
  lane[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) lane[threadIdx.x] += lane[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = lane[0];
  __syncthreads();
  return sum;
}

/// Calls pack(first) for the packs of kWidth elements that are this thread's, and one(i) for those that are left over.
template <int kWidth, class AddPack, class AddOne>
__device__ void for_elements(std::int64_t n, AddPack&& pack, AddOne&& one) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t threads = static_cast<std::int64_t>(kBlocks) * kThreads;
  const std::int64_t packs = n / kWidth;
#pragma unroll 2
  for (std::int64_t i = thread; i < packs; i += threads) pack(i * kWidth);
  if (thread < n - packs * kWidth) one(packs * kWidth + thread);
}

template <int kWidth, bool kBefore, class T>
__global__ void __launch_bounds__(kThreads)
    compare_kernel(const float* exact, const T* computed, const float* before, std::int64_t n) {
  Sums sums{};
  const auto add = [&](float p_float, float q_float) {
    const double p = p_float;
    const double q = q_float;
    sums.exact += p * p;
    sums.computed += q * q;
    sums.dot += p * q;
    sums.noise += (q - p) * (q - p);
  };
  for_elements<kWidth>(
      n,
      [&](std::int64_t i) {
        const Pack<float, kWidth> p = load_pack<kWidth>(exact + i);
        const Pack<T, kWidth> q = load_pack<kWidth>(computed + i);
        Pack<float, kWidth> b{};
        if constexpr (kBefore) b = load_pack<kWidth>(before + i);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) add(p.v[k], kBefore ? to_float(q.v[k]) - b.v[k] : to_float(q.v[k]));
      },
      [&](std::int64_t i) { add(exact[i], kBefore ? to_float(computed[i]) - before[i] : to_float(computed[i])); });
  sums = {block_sum(sums.exact), block_sum(sums.computed), block_sum(sums.dot), block_sum(sums.noise)};
  if (threadIdx.x == 0) block_sums[blockIdx.x] = sums;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) distance_kernel(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  const auto add = [&](float p, float q) { sum += fabs(static_cast<double>(p) - static_cast<double>(q)); };
  for_elements<kWidth>(
      n,
      [&](std::int64_t i) {
        const Pack<float, kWidth> p = load_pack<kWidth>(a + i);
        const Pack<float, kWidth> q = load_pack<kWidth>(b + i);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) add(p.v[k], q.v[k]);
      },
      [&](std::int64_t i) { add(a[i], b[i]); });
  sum = block_sum(sum);
  if (threadIdx.x == 0) block_distances[blockIdx.x] = sum;
}

template <class T>
const void* symbol_address(const T& symbol) {
  void* address = nullptr;
  check(cudaGetSymbolAddress(&address, symbol), "finding the sums of the blocks");
  return address;
}

}  // namespace

ProductQuality compare_products(const Tensor& exact, const Tensor& computed, const Tensor& before) {
  require(exact.numel() == computed.numel() && (!before.defined() || before.numel() == exact.numel()),
          "compare_products of {} and {}", to_string(exact), to_string(computed));
  const std::int64_t n = exact.numel();
  if (n == 0) return {};
  const auto* p = device_data<float>(exact, "compare_products");
  const float* b = before.defined() ? device_data<float>(before, "compare_products") : nullptr;
  dispatch_float(computed.dtype(), [&]<class T>(T*) {
    const T* q = device_data<T>(computed, "compare_products");
    const bool packs = packs_fit(p, q) && (b == nullptr || packs_fit(b));
    const auto launch = [&](auto kernel) { kernel<<<kBlocks, kThreads, 0, stream()>>>(p, q, b, n); };
    if (b == nullptr) {
      launch(packs ? compare_kernel<4, false, T> : compare_kernel<1, false, T>);
    } else {
      launch(packs ? compare_kernel<4, true, T> : compare_kernel<1, true, T>);
    }
  });
  launched("compare_products");
  Sums sums[kBlocks];
  to_host(sums, symbol_address(block_sums), sizeof(sums));
  ProductQuality total;
  for (const Sums& s : sums) total.merge({s.exact, s.computed, s.dot, s.noise, 0});
  total.count = n;
  return total;
}

double sum_of_distances(const Tensor& a, const Tensor& b) {
  require(a.numel() == b.numel(), "sum_of_distances of {} and {}", to_string(a), to_string(b));
  const std::int64_t n = a.numel();
  if (n == 0) return 0;
  const auto* p = device_data<float>(a, "sum_of_distances");
  const auto* q = device_data<float>(b, "sum_of_distances");
  if (packs_fit(p, q)) {
    distance_kernel<4><<<kBlocks, kThreads, 0, stream()>>>(p, q, n);
  } else {
    distance_kernel<1><<<kBlocks, kThreads, 0, stream()>>>(p, q, n);
  }
  launched("sum_of_distances");
  double sums[kBlocks];
  to_host(sums, symbol_address(block_distances), sizeof(sums));
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

}  // namespace nibble::cuda
