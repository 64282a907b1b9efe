// Passes over a weight matrix from step to step, all bound by memory. Those that are element by element take four
// floats a thread; those that count by row give a block to every row.
#include "nibble/recipe/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;

/// Calls f(first element) for the packs of kWidth that are this thread's; kWidth divides n.
template <int kWidth, class F>
__device__ void for_packs(std::int64_t n, F f) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n / kWidth; i += stride) {
    f(i * kWidth);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    average_kernel(float* average, const float* w, float decay, float rest, std::int64_t n) {
  for_packs<kWidth>(n, [=](std::int64_t i) {
    Pack<float, kWidth> a = load_pack<kWidth>(average + i);
    const Pack<float, kWidth> now = load_pack<kWidth>(w + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) a.v[k] = decay * a.v[k] + rest * now.v[k];
    store_pack(average + i, a);
  });
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) way_kernel(const float* now, float* last, float* way, std::int64_t n) {
  for_packs<kWidth>(n, [=](std::int64_t i) {
    const Pack<float, kWidth> here = load_pack<kWidth>(now + i);
    const Pack<float, kWidth> there = load_pack<kWidth>(last + i);
    Pack<float, kWidth> sum = load_pack<kWidth>(way + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum.v[k] += fabsf(here.v[k] - there.v[k]);
    store_pack(way + i, sum);
    store_pack(last + i, here);
  });
}

/// w = quantised where flag(i); flagged[r] = how many of row r.
template <class Flag>
__device__ void reset_rows(float* w, const float* quantised, Flag flag, std::int32_t* flagged, std::int64_t rows,
                           std::int64_t cols) {
  __shared__ int count;
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    int own = 0;
    for (std::int64_t c = threadIdx.x; c < cols; c += kThreads) {
      const std::int64_t i = r * cols + c;
      if (!flag(i)) continue;
      w[i] = quantised[i];
      ++own;
    }
    if (own > 0) atomicAdd(&count, own);
    __syncthreads();
    if (threadIdx.x == 0) flagged[r] = count;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    ratio_kernel(float* w, const float* quantised, const float* weight_way, const float* quantised_way, float threshold,
                 std::int32_t* flagged, std::int64_t rows, std::int64_t cols) {
  reset_rows(
      w, quantised,
      [=](std::int64_t i) { return quantised_way[i] > 0 && quantised_way[i] >= threshold * weight_way[i]; }, flagged,
      rows, cols);
}

/// Half of the steps from an E2M1 value to its neighbours on either side.
__device__ float bin_width(float magnitude) {
  return magnitude < 1.75f ? 0.5f : magnitude < 2.5f ? 0.75f : magnitude < 3.5f ? 1.0f : magnitude < 5.0f ? 1.5f : 2.0f;
}

__global__ void __launch_bounds__(kThreads)
    edge_kernel(float* w, const float* quantised, const float* scale, float threshold, std::int32_t* flagged,
                std::int64_t rows, std::int64_t cols) {
  reset_rows(
      w, quantised,
      [=](std::int64_t i) {
        // A scale of zero decodes to zero whatever the code: there is no bin to be at the edge of.
        const float inverse = scale[i] > 0 ? 1.0f / scale[i] : 0.0f;
        const float q = quantised[i] * inverse;
        return fabsf(w[i] * inverse - q) > threshold * bin_width(fabsf(q));
      },
      flagged, rows, cols);
}

__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const float* from, const std::int32_t* flagged, float* to, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    if (flagged[r] <= 0) continue;
    for (std::int64_t c = threadIdx.x; c < cols; c += kThreads) to[r * cols + c] = from[r * cols + c];
  }
}

unsigned block_a_row(std::int64_t rows) { return grid_for(rows * kThreads, kThreads); }

}  // namespace

void update_average(const Tensor& average, const Tensor& w, double decay) {
  const std::int64_t n = w.numel();
  require(average.numel() == n, "update_average of {} by {}", to_string(average), to_string(w));
  if (n == 0) return;
  auto* a = device_data<float>(average, "update_average");
  const auto* from = device_data<float>(w, "update_average");
  const auto kept = static_cast<float>(decay);
  const auto rest = static_cast<float>(1 - decay);
  if (n % 4 == 0 && packs_fit(a, from)) {
    average_kernel<4><<<grid_for(n / 4, kThreads), kThreads, 0, stream()>>>(a, from, kept, rest, n);
  } else {
    average_kernel<1><<<grid_for(n, kThreads), kThreads, 0, stream()>>>(a, from, kept, rest, n);
  }
  launched("update_average");
}

void add_way(const Tensor& now, const Tensor& last, const Tensor& way) {
  const std::int64_t n = now.numel();
  require(last.numel() == n && way.numel() == n, "add_way of {} to {}", to_string(now), to_string(way));
  if (n == 0) return;
  const auto* here = device_data<float>(now, "add_way");
  auto* there = device_data<float>(last, "add_way");
  auto* sum = device_data<float>(way, "add_way");
  if (n % 4 == 0 && packs_fit(here, there, sum)) {
    way_kernel<4><<<grid_for(n / 4, kThreads), kThreads, 0, stream()>>>(here, there, sum, n);
  } else {
    way_kernel<1><<<grid_for(n, kThreads), kThreads, 0, stream()>>>(here, there, sum, n);
  }
  launched("add_way");
}

void reset_by_ratio(const Tensor& w, const Tensor& quantised, const Tensor& weight_way, const Tensor& quantised_way,
                    float threshold, const Tensor& flagged) {
  if (w.numel() == 0) return fill_zero(flagged);
  ratio_kernel<<<block_a_row(w.rows()), kThreads, 0, stream()>>>(
      device_data<float>(w, "reset_by_ratio"), device_data<float>(quantised, "reset_by_ratio"),
      device_data<float>(weight_way, "reset_by_ratio"), device_data<float>(quantised_way, "reset_by_ratio"), threshold,
      device_data<std::int32_t>(flagged, "reset_by_ratio"), w.rows(), w.cols());
  launched("reset_by_ratio");
}

void reset_at_edge(const Tensor& w, const Tensor& quantised, const Tensor& scales, float threshold,
                   const Tensor& flagged) {
  if (w.numel() == 0) return fill_zero(flagged);
  edge_kernel<<<block_a_row(w.rows()), kThreads, 0, stream()>>>(
      device_data<float>(w, "reset_at_edge"), device_data<float>(quantised, "reset_at_edge"),
      device_data<float>(scales, "reset_at_edge"), threshold, device_data<std::int32_t>(flagged, "reset_at_edge"),
      w.rows(), w.cols());
  launched("reset_at_edge");
}

void copy_flagged_rows(const Tensor& from, const Tensor& flagged, const Tensor& to) {
  if (from.numel() == 0) return;
  copy_rows_kernel<<<block_a_row(from.rows()), kThreads, 0, stream()>>>(
      device_data<float>(from, "copy_flagged_rows"), device_data<std::int32_t>(flagged, "copy_flagged_rows"),
      device_data<float>(to, "copy_flagged_rows"), from.rows(), from.cols());
  launched("copy_flagged_rows");
}

void fill_bytes(const Tensor& bytes, std::uint8_t value) {
  if (bytes.numel() == 0) return;
  check(cudaMemsetAsync(device_data<std::uint8_t>(bytes, "fill_bytes"), value, bytes.bytes(), stream()), "fill_bytes");
}

}  // namespace nibble::cuda
