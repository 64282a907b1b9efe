// Flat passes and reductions, bound by memory. The reductions run on a fixed number of threads, whatever the GPU, each
// with its own arithmetic progression of elements, and the host adds the blocks' results in order: the same bits on
// every GPU.
#include <array>

#include "nibble/ops/backend.h"
#include "nibble/tensor/cuda/elementwise.cuh"

namespace nibble::cuda {

namespace {

struct Scale {
  static constexpr int kInFlight = 4;
  template <int kWidth>
  using Values = Pack<float, kWidth>;

  float* x;
  float factor;

  template <int kWidth>
  __device__ void load(std::int64_t i, Pack<float, kWidth>& v) const {
    v = load_pack<kWidth>(x + i);
  }
  template <int kWidth>
  __device__ void store(std::int64_t i, Pack<float, kWidth>& v) const {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v.v[k] *= factor;
    store_pack(x + i, v);
  }
};

template <class To, class From>
struct Add {
  static constexpr int kInFlight = 4;
  template <int kWidth>
  struct Values {
    Pack<To, kWidth> to;
    Pack<From, kWidth> from;
  };

  To* to;
  const From* from;

  template <int kWidth>
  __device__ void load(std::int64_t i, Values<kWidth>& v) const {
    v.to = load_pack<kWidth>(to + i);
    v.from = load_pack<kWidth>(from + i);
  }
  template <int kWidth>
  __device__ void store(std::int64_t i, Values<kWidth>& v) const {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v.to.v[k] = from_float<To>(to_float(v.to.v[k]) + to_float(v.from.v[k]));
    store_pack(to + i, v.to);
  }
};

constexpr int kThreads = 256;
constexpr int kBlocks = 1056;  // eight for each of an H100's 132 multiprocessors: all its threads

/// Results of the blocks of the reduction that runs; the one stream keeps two of them apart.
__device__ double block_squares[kBlocks];
__device__ std::int64_t block_first[kBlocks];

/// Calls f(i, x[i]) for this thread's share of x, in ascending i; several packs are on their way at a time.
template <int kWidth, class T, class F>
__device__ __forceinline__ void for_share(const T* x, std::int64_t n, F f) {
  constexpr int kInFlight = 4;
  constexpr std::int64_t kStride = std::int64_t{kBlocks} * kThreads;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t packs = n / kWidth;
  std::int64_t pack = thread;
  for (; pack + (kInFlight - 1) * kStride < packs; pack += kInFlight * kStride) {
    Pack<T, kWidth> v[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) v[u] = load_pack<kWidth>(x + (pack + u * kStride) * kWidth);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) f((pack + u * kStride) * kWidth + k, v[u].v[k]);
    }
  }
  for (; pack < packs; pack += kStride) {
    const Pack<T, kWidth> v = load_pack<kWidth>(x + pack * kWidth);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) f(pack * kWidth + k, v.v[k]);
  }
  if (packs * kWidth + thread < n) f(packs * kWidth + thread, x[packs * kWidth + thread]);
}

/// combine over the block, in thread 0: lanes as a tree, then the warps in order.
template <class T, class Combine>
__device__ T block_reduce(T x, Combine combine) {
  __shared__ T warps[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = combine(x, __shfl_down_sync(0xFFFF'FFFFu, x, offset));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = warps[0];
  for (int w = 1; w < kThreads / 32; ++w) x = combine(x, warps[w]);
  return x;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) sum_of_squares_kernel(const float* x, std::int64_t n) {
  double sum = 0;
  for_share<kWidth>(x, n, [&](std::int64_t, float value) {
    const auto v = static_cast<double>(value);
    sum = fma(v, v, sum);  // the product of two floats is exact in double: what the CPU computes
  });
  sum = block_reduce(sum, [](double a, double b) { return a + b; });
  if (threadIdx.x == 0) block_squares[blockIdx.x] = sum;
}

/// A block takes a chunk after another.
template <class T>
__global__ void __launch_bounds__(kThreads)
    squares_of_chunks_kernel(const T* x, std::int64_t n, std::int64_t chunk, double* sums, std::int64_t chunks) {
  for (std::int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    const std::int64_t end = min(n, (c + 1) * chunk);
    double sum = 0;
    for (std::int64_t i = c * chunk + threadIdx.x; i < end; i += kThreads) {
      const auto v = static_cast<double>(to_float(x[i]));
      sum = fma(v, v, sum);
    }
    sum = block_reduce(sum, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) sums[c] = sum;
    __syncthreads();
  }
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) first_non_finite_kernel(const T* x, std::int64_t n) {
  std::int64_t first = n;
  for_share<kWidth>(x, n, [&](std::int64_t i, T value) {
    if (!float_is_finite(to_float(value)) && i < first) first = i;
  });
  first = block_reduce(first, [](std::int64_t a, std::int64_t b) { return a < b ? a : b; });
  if (threadIdx.x == 0) block_first[blockIdx.x] = first;
}

template <class T>
std::array<T, kBlocks> fetch_blocks(const T (&symbol)[kBlocks]) {
  void* address = nullptr;
  check(cudaGetSymbolAddress(&address, symbol), "finding a reduction's results");
  std::array<T, kBlocks> values;
  to_host(values.data(), address, sizeof(values));
  return values;
}

}  // namespace

double sum_of_squares(const Tensor& x) {
  const float* p = device_data<float>(x, "sum_of_squares");
  const std::int64_t n = x.numel();
  if (n == 0) return 0.0;
  if (packs_fit(p)) {
    sum_of_squares_kernel<4><<<kBlocks, kThreads, 0, stream()>>>(p, n);
  } else {
    sum_of_squares_kernel<1><<<kBlocks, kThreads, 0, stream()>>>(p, n);
  }
  launched("sum_of_squares");
  double sum = 0;
  for (const double v : fetch_blocks(block_squares)) sum += v;
  return sum;
}

void squares_of_chunks(const Tensor& x, std::int64_t chunk, const Tensor& sums) {
  const std::int64_t n = x.numel();
  const std::int64_t chunks = (n + chunk - 1) / chunk;
  auto* to = reinterpret_cast<double*>(device_data<std::uint8_t>(sums, "squares_of_chunks"));
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* p = device_data<T>(x, "squares_of_chunks");
    const unsigned grid = grid_for(chunks * kThreads, kThreads);
    squares_of_chunks_kernel<T><<<grid, kThreads, 0, stream()>>>(p, n, chunk, to, chunks);
  });
  launched("squares_of_chunks");
}

void scale_in_place(const Tensor& x, float factor) {
  const Scale op{device_data<float>(x, "scale_in_place"), factor};
  elementwise<4>(op, x.numel(), packs_fit(op.x), "scale_in_place");
}

void add_in_place(const Tensor& to, const Tensor& from) {
  dispatch_float(to.dtype(), [&]<class To>(To*) {
    dispatch_float(from.dtype(), [&]<class From>(From*) {
      const Add<To, From> op{device_data<To>(to, "add_in_place"), device_data<From>(from, "add_in_place")};
      elementwise<4>(op, to.numel(), packs_fit(op.to, op.from), "add_in_place");
    });
  });
}

std::int64_t first_non_finite(const Tensor& x) {
  const std::int64_t n = x.numel();
  if (n == 0) return -1;
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* p = device_data<T>(x, "first_non_finite");
    if (packs_fit(p)) {
      first_non_finite_kernel<16 / sizeof(T)><<<kBlocks, kThreads, 0, stream()>>>(p, n);
    } else {
      first_non_finite_kernel<1><<<kBlocks, kThreads, 0, stream()>>>(p, n);
    }
  });
  launched("first_non_finite");
  std::int64_t first = n;
  for (const std::int64_t i : fetch_blocks(block_first)) first = std::min(first, i);
  return first == n ? -1 : first;
}

}  // namespace nibble::cuda
