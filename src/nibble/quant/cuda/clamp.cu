// The bounds of the clamp: exact quantiles of each row, a thread block a row, or of the tensor. Any row or tensor;
// clamped_rows.cu is faster where it serves.
#include "nibble/quant/cuda/clamped_rows.h"
#include "nibble/quant/cuda/select.cuh"
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

template <class T>
__device__ __forceinline__ void count_row(const SourceView& source, std::uint32_t r, Digit digit, bool first,
                                          const Quantiles& quantiles, std::uint32_t* histograms) {
  for (std::uint32_t c = 8 * threadIdx.x; c < source.cols; c += 8 * kSelectThreads) {
    float y[8];
    read_unclamped<T>(source, r, c, y);
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if (c + i < source.cols) count_key(unsigned_key(y[i]), digit, first, quantiles, histograms);
    }
  }
}

/// Also counts, if asked, what the bounds cut off the row: its second reading comes from the caches.
template <class T>
__global__ void __launch_bounds__(kSelectThreads)
    row_bounds_kernel(const __grid_constant__ SourceView source, std::uint32_t low, std::uint32_t high, bool bf16_keys,
                      Bounds* __restrict__ bounds, std::int32_t* __restrict__ counts) {
  __shared__ std::uint32_t histograms[2 * kHistogram];
  __shared__ Quantiles quantiles;
  __shared__ std::int32_t entries;
  const std::uint32_t r = blockIdx.x;
  if (threadIdx.x == 0) {
    quantiles.prefix[0] = quantiles.prefix[1] = 0;
    quantiles.index[0] = low;
    quantiles.index[1] = high;
    entries = 0;
  }
  for (int pass = 0; pass < passes_for(bf16_keys); ++pass) {
    const Digit digit = digit_of(pass, bf16_keys);
    const std::uint32_t used = place_of_bin(1u << digit.bits);
    for (std::uint32_t i = threadIdx.x; i < used; i += kSelectThreads) histograms[i] = histograms[kHistogram + i] = 0;
    __syncthreads();
    count_row<T>(source, r, digit, pass == 0, quantiles, histograms);
    __syncthreads();
    const auto k = static_cast<int>(threadIdx.x / 32);
    if (k < 2) find_digit(histograms + (pass == 0 ? 0 : k * kHistogram), digit, k, quantiles);
    __syncthreads();
  }
  Bounds found;
  found.low = selected_key(quantiles.prefix[0], bf16_keys);
  found.high = selected_key(quantiles.prefix[1], bf16_keys);
  if (threadIdx.x == 0) bounds[r] = found;
  if (counts == nullptr) return;
  int count = 0;
  for (std::uint32_t c = 8 * threadIdx.x; c < source.cols; c += 8 * kSelectThreads) {
    float y[8];
    float difference[8];
    read_unclamped<T>(source, r, c, y);
    count += __popc(cut_off(y, c, source.cols, found, difference));
  }
  count = __reduce_add_sync(0xFFFF'FFFFu, count);
  if (threadIdx.x % 32 == 0) atomicAdd(&entries, count);
  __syncthreads();
  if (threadIdx.x == 0) counts[r] = entries;
}

/// One digit of all keys: a thread block takes rows in turn, and adds its histograms to those of the tensor.
template <class T>
__global__ void __launch_bounds__(kSelectThreads)
    tensor_digit_kernel(const __grid_constant__ SourceView source, int pass, bool bf16_keys,
                        const Quantiles* __restrict__ quantiles, std::uint32_t* __restrict__ totals) {
  __shared__ std::uint32_t histograms[2 * kHistogram];
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kHistogram; i += kSelectThreads) histograms[i] = 0;
  __syncthreads();
  const Quantiles known = *quantiles;
  const Digit digit = digit_of(pass, bf16_keys);
  for (std::uint32_t r = blockIdx.x; r < source.rows; r += gridDim.x) {
    count_row<T>(source, r, digit, pass == 0, known, histograms);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kHistogram; i += kSelectThreads) {
    if (histograms[i] != 0) atomicAdd(totals + i, histograms[i]);
  }
}

__global__ void start_quantiles_kernel(std::uint32_t low, std::uint32_t high, Quantiles* quantiles) {
  *quantiles = {{0, 0}, {low, high}};
}

/// The digit that a pass found, by a warp for each quantile, and after the last one the bounds.
__global__ void __launch_bounds__(64)
    find_digit_kernel(const std::uint32_t* __restrict__ totals, int pass, bool bf16_keys, Quantiles* quantiles,
                      Bounds* __restrict__ bounds) {
  const auto k = static_cast<int>(threadIdx.x / 32);
  find_digit(totals + (pass == 0 ? 0 : k * kHistogram), digit_of(pass, bf16_keys), k, *quantiles);
  __syncthreads();
  if (threadIdx.x != 0 || pass + 1 < passes_for(bf16_keys)) return;
  bounds->low = selected_key(quantiles->prefix[0], bf16_keys);
  bounds->high = selected_key(quantiles->prefix[1], bf16_keys);
}

template <class T>
void find_tensor_bounds(const Job& job, const SourceView& source, quant_cpu::QuantileIndex index, bool bf16_keys,
                        Bounds* bounds) {
  auto* quantiles = job.scratch<Quantiles>(1);
  auto* totals = job.scratch<std::uint32_t>(2 * kHistogram);
  const auto low = static_cast<std::uint32_t>(index.low);
  const auto high = static_cast<std::uint32_t>(index.high);
  start_quantiles_kernel<<<1, 1, 0, cuda::stream()>>>(low, high, quantiles);
  cuda::launched("start_quantiles_kernel");
  const auto grid = static_cast<unsigned>(std::min<std::int64_t>(job.rows(), 8 * cuda::multiprocessors()));
  for (int pass = 0; pass < passes_for(bf16_keys); ++pass) {
    fill_zero_async(totals, 2 * kHistogram * sizeof(std::uint32_t));
    tensor_digit_kernel<T><<<grid, kSelectThreads, 0, cuda::stream()>>>(source, pass, bf16_keys, quantiles, totals);
    cuda::launched("tensor_digit_kernel");
    find_digit_kernel<<<1, 64, 0, cuda::stream()>>>(totals, pass, bf16_keys, quantiles, bounds);
    cuda::launched("find_digit_kernel");
  }
}

}  // namespace

std::int32_t* find_bounds(Job& job, bool count) {
  const Clamp& clamp = job.spec.clamp;
  const std::int64_t n = clamp.per_row ? job.cols() : job.rows() * job.cols();
  require(n < (std::int64_t{1} << 32), "quantiles of {} values", n);
  const quant_cpu::QuantileIndex index = quant_cpu::quantile_index(clamp.alpha, n);
  const SourceView& source = job.source;
  const bool bf16_keys = (job.dtype == DType::BF16 || source.round_to_bf16) && source.row_fold == nullptr &&
                         source.col_fold == nullptr && !job.rotated();
  auto* bounds = job.scratch<Bounds>(clamp.per_row ? job.rows() : 1);
  job.source.bounds = bounds;
  job.source.bounds_of_rows = clamp.per_row;
  std::int32_t* counts = count && clamp.per_row ? job.scratch<std::int32_t>(job.rows()) : nullptr;
  if (fits_row_selection(job)) {
    select_row_bounds(job, bounds, counts);
    return counts;
  }
  dispatch_float(job.dtype, [&]<class T>(T*) {
    if (!clamp.per_row) return find_tensor_bounds<T>(job, source, index, bf16_keys, bounds);
    row_bounds_kernel<T><<<blocks_for(job.rows(), 1), kSelectThreads, 0, cuda::stream()>>>(
        source, static_cast<std::uint32_t>(index.low), static_cast<std::uint32_t>(index.high), bf16_keys, bounds,
        counts);
    cuda::launched("row_bounds_kernel");
  });
  return counts;
}

}  // namespace nibble::quant_cuda
