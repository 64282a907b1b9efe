// Some columns of a matrix. Bound by memory: the matrix's rows are far apart in it, so that every column that is read
// or written costs a sector of 32 bytes. A warp takes a row, its lanes the columns.
#include "nibble/recipe/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct Rows {
  std::int64_t first;
  std::int64_t stride;
};
/// The rows of this warp.
__device__ Rows rows_of_warp() {
  return {static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32,
          static_cast<std::int64_t>(gridDim.x) * kWarps};
}
unsigned grid_of_rows(std::int64_t rows) { return grid_for(rows * 32, kThreads); }

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* x, const std::int32_t* column, T* out, std::int64_t rows, std::int64_t cols, int m) {
  const Rows range = rows_of_warp();
  for (std::int64_t r = range.first; r < rows; r += range.stride) {
    const T* row = x + r * cols;
    T* to = out + r * m;
#pragma unroll 4
    for (int j = threadIdx.x % 32; j < m; j += 32) to[j] = row[column[j]];
  }
}

template <bool kAdd, class T>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const float* part, const std::int32_t* column, T* to, std::int64_t rows, std::int64_t cols, int m) {
  const Rows range = rows_of_warp();
  for (std::int64_t r = range.first; r < rows; r += range.stride) {
    const float* from = part + r * m;
    T* row = to + r * cols;
#pragma unroll 4
    for (int j = threadIdx.x % 32; j < m; j += 32) {
      T& element = row[column[j]];
      element = from_float<T>(kAdd ? to_float(element) + from[j] : from[j]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    zero_kernel(T* x, const std::int32_t* column, std::int64_t rows, std::int64_t cols, int m) {
  const Rows range = rows_of_warp();
  for (std::int64_t r = range.first; r < rows; r += range.stride) {
    T* row = x + r * cols;
#pragma unroll 4
    for (int j = threadIdx.x % 32; j < m; j += 32) row[column[j]] = from_float<T>(0.0f);
  }
}

constexpr int kStrip = 32;            // columns that a block sums: whole sectors of its rows
constexpr int kSquareThreads = 1024;  // few blocks, so many rows in flight in each

/// A block sums one strip: thread t takes kWidth columns of every row t / (kStrip / kWidth) apart, then the threads of
/// a column are added by halves, always in the same order.
template <int kWidth, class T>
__global__ void __launch_bounds__(kSquareThreads)
    squares_kernel(const T* x, float* sums, std::int64_t rows, std::int64_t cols) {
  constexpr int kLanes = kStrip / kWidth;
  constexpr int kRows = kSquareThreads / kLanes;
  __shared__ double partial[kSquareThreads];
  const int lane = threadIdx.x % kLanes;
  const int at = threadIdx.x / kLanes;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kStrip + lane * kWidth;
  double sum[kWidth] = {};
  if (c < cols) {
#pragma unroll 4
    for (std::int64_t r = at; r < rows; r += kRows) {
      const Pack<T, kWidth> pack = load_pack<kWidth>(x + r * cols + c);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const double v = static_cast<double>(to_float(pack.v[i]));
        sum[i] += v * v;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    partial[threadIdx.x] = sum[i];
    __syncthreads();
    for (int half = kRows / 2; half > 0; half /= 2) {
      if (at < half) partial[threadIdx.x] += partial[threadIdx.x + half * kLanes];
      __syncthreads();
    }
    if (at == 0 && c < cols) sums[c + i] = static_cast<float>(static_cast<double>(sums[c + i]) + partial[threadIdx.x]);
    __syncthreads();
  }
}

/// One block, for the ones to be there before the zeros.
__global__ void __launch_bounds__(1024)
    hiding_kernel(const std::int32_t* column, std::int64_t m, float* factors, std::int64_t n) {
  for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) factors[c] = 1.0f;
  __syncthreads();
  for (std::int64_t j = threadIdx.x; j < m; j += blockDim.x) factors[column[j]] = 0.0f;
}

}  // namespace

void gather_columns(const Tensor& x, const Tensor& columns, const Tensor& out) {
  const std::int64_t m = columns.numel();
  require(x.dtype() == out.dtype() && out.rows() == x.rows() && out.cols() == m, "gather_columns of {} into {}",
          to_string(x), to_string(out));
  if (out.numel() == 0) return;
  const auto* column = device_data<std::int32_t>(columns, "gather_columns");
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    gather_kernel<<<grid_of_rows(x.rows()), kThreads, 0, stream()>>>(device_data<T>(x, "gather_columns"), column,
                                                                     device_data<T>(out, "gather_columns"), x.rows(),
                                                                     x.cols(), static_cast<int>(m));
  });
  launched("gather_columns");
}

void scatter_columns(const Tensor& part, const Tensor& columns, const Tensor& to, Accumulate accumulate) {
  const std::int64_t m = columns.numel();
  require(part.rows() == to.rows() && part.cols() == m, "scatter_columns of {} into {}", to_string(part),
          to_string(to));
  if (part.numel() == 0) return;
  const auto* column = device_data<std::int32_t>(columns, "scatter_columns");
  const auto* from = device_data<float>(part, "scatter_columns");
  dispatch_float(to.dtype(), [&]<class T>(T*) {
    T* target = device_data<T>(to, "scatter_columns");
    const unsigned grid = grid_of_rows(to.rows());
    if (accumulate == Accumulate::Add) {
      scatter_kernel<true>
          <<<grid, kThreads, 0, stream()>>>(from, column, target, to.rows(), to.cols(), static_cast<int>(m));
    } else {
      scatter_kernel<false>
          <<<grid, kThreads, 0, stream()>>>(from, column, target, to.rows(), to.cols(), static_cast<int>(m));
    }
  });
  launched("scatter_columns");
}

void zero_columns(const Tensor& x, const Tensor& columns) {
  const std::int64_t m = columns.numel();
  if (x.numel() * m == 0) return;
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    zero_kernel<<<grid_of_rows(x.rows()), kThreads, 0, stream()>>>(device_data<T>(x, "zero_columns"),
                                                                   device_data<std::int32_t>(columns, "zero_columns"),
                                                                   x.rows(), x.cols(), static_cast<int>(m));
  });
  launched("zero_columns");
}

void add_column_squares(const Tensor& x, const Tensor& sums) {
  const std::int64_t cols = x.cols();
  require(sums.numel() == cols, "add_column_squares of {} to {}", to_string(x), to_string(sums));
  if (x.numel() == 0) return;
  auto* to = device_data<float>(sums, "add_column_squares");
  const auto blocks = static_cast<unsigned>((cols + kStrip - 1) / kStrip);
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* from = device_data<T>(x, "add_column_squares");
    if (cols % 4 == 0 && packs_fit(from)) {
      squares_kernel<4><<<blocks, kSquareThreads, 0, stream()>>>(from, to, x.rows(), cols);
    } else {
      squares_kernel<1><<<blocks, kSquareThreads, 0, stream()>>>(from, to, x.rows(), cols);
    }
  });
  launched("add_column_squares");
}

void hiding_factors(const Tensor& columns, const Tensor& factors) {
  if (factors.numel() == 0) return;
  hiding_kernel<<<1, 1024, 0, stream()>>>(device_data<std::int32_t>(columns, "hiding_factors"), columns.numel(),
                                          device_data<float>(factors, "hiding_factors"), factors.numel());
  launched("hiding_factors");
}

void place_columns(const Tensor& from, const Tensor& to, std::int64_t first) {
  require(from.device() == Device::Cuda && to.device() == Device::Cuda, "place_columns of {} into {}", to_string(from),
          to_string(to));
  const std::size_t size = dtype_size(to.dtype());
  const std::size_t from_row = static_cast<std::size_t>(from.cols()) * size;
  const std::size_t to_row = static_cast<std::size_t>(to.cols()) * size;
  const std::size_t width = static_cast<std::size_t>(std::min(from.cols(), to.cols() - first)) * size;
  check(
      cudaMemcpy2DAsync(static_cast<std::byte*>(to.raw()) + static_cast<std::size_t>(first) * size, to_row, from.raw(),
                        from_row, width, static_cast<std::size_t>(to.rows()), cudaMemcpyDeviceToDevice, stream()),
      "place_columns");
}

void first_columns(const Tensor& x, const Tensor& out) {
  require(x.dtype() == out.dtype() && x.rows() == out.rows() && out.cols() <= x.cols() && x.device() == Device::Cuda &&
              out.device() == Device::Cuda,
          "first_columns of {} into {}", to_string(x), to_string(out));
  if (out.numel() == 0) return;
  const std::size_t from_row = static_cast<std::size_t>(x.cols()) * dtype_size(x.dtype());
  const std::size_t to_row = static_cast<std::size_t>(out.cols()) * dtype_size(x.dtype());
  check(cudaMemcpy2DAsync(out.raw(), to_row, x.raw(), from_row, to_row, static_cast<std::size_t>(out.rows()),
                          cudaMemcpyDeviceToDevice, stream()),
        "first_columns");
}

}  // namespace nibble::cuda
