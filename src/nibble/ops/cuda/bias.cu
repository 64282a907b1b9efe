// The bias of a linear layer, bound by memory: the matrix is read once, and written once in the forward. A thread takes
// one pack of columns; blockIdx.y strides over the rows. In the backward each blockIdx.y leaves a partial sum.
#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/partial_sums.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kForwardRows = 4096;  // of the grid: enough to fill a GPU with the narrowest matrix
constexpr std::int64_t kPartials = 256;      // rows of the backward's grid, whatever the GPU

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(T* y, const float* bias, std::int64_t rows, std::int64_t n) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWidth;
  if (i >= n) return;
  float b[kWidth];
  load_floats(bias + i, b);
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float v[kWidth];
    load_floats(y + row * n + i, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] += b[k];
    store_floats(y + row * n + i, v);
  }
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* dy, float* partial, std::int64_t rows, std::int64_t n) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWidth;
  if (i >= n) return;
  float sum[kWidth] = {};
#pragma unroll 4
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float v[kWidth];
    load_floats(dy + row * n + i, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] += v[k];
  }
  store_floats(partial + blockIdx.y * n + i, sum);
}

/// Calls f with the width of packs that rows of n elements of T allow, and the grid for it.
template <class T, class F>
void with_packs(std::int64_t n, bool aligned, std::int64_t grid_rows, F&& f) {
  constexpr int kPack = 16 / sizeof(T);
  const auto grid = [&](int width) {
    const std::int64_t threads = (n + width - 1) / width;
    return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads), static_cast<unsigned>(grid_rows));
  };
  if (aligned && n % kPack == 0) return f(std::integral_constant<int, kPack>(), grid(kPack));
  f(std::integral_constant<int, 1>(), grid(1));
}

}  // namespace

void bias_forward(const Tensor& y, const Tensor& bias) {
  const std::int64_t rows = y.rows();
  const std::int64_t n = y.cols();
  if (rows == 0) return;
  const float* b = device_data<float>(bias, "bias_forward");
  dispatch_float(y.dtype(), [&]<class T>(T*) {
    T* data = device_data<T>(y, "bias_forward");
    with_packs<T>(n, packs_fit(data, b), std::min(rows, kForwardRows),
                  [&]<int kWidth>(std::integral_constant<int, kWidth>, dim3 grid) {
                    forward_kernel<kWidth><<<grid, kThreads, 0, stream()>>>(data, b, rows, n);
                  });
  });
  launched("bias_forward");
}

void bias_backward(const Tensor& dy, const Tensor& dbias, Arena& scratch) {
  const std::int64_t rows = dy.rows();
  const std::int64_t n = dy.cols();
  if (rows == 0) return;
  const ArenaScope scope(scratch);
  const std::int64_t partials = std::min(rows, kPartials);
  float* partial = device_data<float>(scratch.allocate(DType::F32, {partials, n}), "bias_backward");
  dispatch_float(dy.dtype(), [&]<class T>(T*) {
    const T* data = device_data<T>(dy, "bias_backward");
    with_packs<T>(n, packs_fit(data, partial), partials,
                  [&]<int kWidth>(std::integral_constant<int, kWidth>, dim3 grid) {
                    backward_kernel<kWidth><<<grid, kThreads, 0, stream()>>>(data, partial, rows, n);
                  });
  });
  launched("bias_backward");
  add_partial_sums(partial, static_cast<int>(partials), n, device_data<float>(dbias, "bias_backward"));
}

}  // namespace nibble::cuda
