// What the clamp cuts off, as a CSR matrix: a warp a row counts its entries, where that was not done before, one block
// adds the counts up, and the warps write: what was found with the bounds, or what they find now, eight columns a lane.
// Bound by memory.
#include <limits>

#include "nibble/quant/cuda/clamped_rows.h"
#include "nibble/quant/cuda/select.cuh"
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kScanThreads = 1024;

template <class T>
__device__ __forceinline__ std::uint32_t entries(const SourceView& source, std::uint32_t r, std::uint32_t c,
                                                 float (&difference)[8]) {
  float y[8];
  read_unclamped<T>(source, r, c, y);
  return cut_off(y, c, source.cols, source.bounds[source.bounds_of_rows ? r : 0], difference);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    count_entries_kernel(const __grid_constant__ SourceView source, std::int32_t* __restrict__ counts) {
  const std::uint32_t r = (blockIdx.x * kThreads + threadIdx.x) / 32;
  if (r >= source.rows) return;
  int count = 0;
  for (std::uint32_t c = 8 * (threadIdx.x % 32); c < source.cols; c += 256) {
    float difference[8];
    count += __popc(entries<T>(source, r, c, difference));
  }
  count = __reduce_add_sync(0xFFFF'FFFFu, count);
  if (threadIdx.x % 32 == 0) counts[r] = count;
}

/// begin[r] = the sum of the counts before row r, [rows + 1].
__global__ void __launch_bounds__(kScanThreads)
    row_begin_kernel(const std::int32_t* __restrict__ counts, std::uint32_t rows, std::int32_t* __restrict__ begin) {
  __shared__ std::int32_t of_warp[kScanThreads / 32];
  const std::uint32_t lane = threadIdx.x % 32;
  std::int32_t before = 0;
  for (std::uint32_t first = 0; first < rows; first += kScanThreads) {
    const std::uint32_t r = first + threadIdx.x;
    const std::int32_t count = r < rows ? counts[r] : 0;
    auto upto = static_cast<std::int32_t>(inclusive_scan(static_cast<std::uint32_t>(count)));
    if (lane == 31) of_warp[threadIdx.x / 32] = upto;
    __syncthreads();
    std::int32_t total = 0;
    for (std::uint32_t w = 0; w < kScanThreads / 32; ++w) {
      if (w == threadIdx.x / 32) upto += total;
      total += of_warp[w];
    }
    if (r < rows) begin[r] = before + upto - count;
    before += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) begin[rows] = before;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    write_entries_kernel(const __grid_constant__ SourceView source, const std::int32_t* __restrict__ begin,
                         std::int32_t* __restrict__ col, float* __restrict__ value) {
  const std::uint32_t r = (blockIdx.x * kThreads + threadIdx.x) / 32;
  if (r >= source.rows) return;
  const std::uint32_t lane = threadIdx.x % 32;
  std::int32_t at = begin[r];
  for (std::uint32_t first = 0; first < source.cols; first += 256) {
    const std::uint32_t c = first + 8 * lane;
    float difference[8];
    const std::uint32_t found = entries<T>(source, r, c, difference);
    const auto upto = static_cast<std::int32_t>(inclusive_scan(static_cast<unsigned>(__popc(found))));
    std::int32_t place = at + upto - __popc(found);
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) {
      if ((found >> i & 1u) == 0) continue;
      col[place] = static_cast<std::int32_t>(c + i);
      value[place] = difference[i];
      ++place;
    }
    at += __shfl_sync(0xFFFF'FFFFu, upto, 31);
  }
}

__global__ void __launch_bounds__(kThreads)
    gather_entries_kernel(CutOffRows rows, std::uint32_t count, const std::int32_t* __restrict__ begin,
                          std::int32_t* __restrict__ col, float* __restrict__ value) {
  const std::uint32_t r = (blockIdx.x * kThreads + threadIdx.x) / 32;
  if (r >= count) return;
  const CutOff* found = rows.places + rows.each * r;
  const std::int32_t first = begin[r];
  const std::int32_t entries_of_row = begin[r + 1] - first;
  for (auto i = static_cast<std::int32_t>(threadIdx.x % 32); i < entries_of_row; i += 32) {
    const CutOff entry = found[i];
    col[first + i] = static_cast<std::int32_t>(entry.column);
    value[first + i] = entry.value;
  }
}

void add_up(const Job& job, const std::int32_t* counts, std::int32_t* begin) {
  row_begin_kernel<<<1, kScanThreads, 0, cuda::stream()>>>(counts, static_cast<std::uint32_t>(job.rows()), begin);
  cuda::launched("row_begin_kernel");
}

}  // namespace

CsrMatrix residual_for(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Arena& arena) {
  const Clamp& clamp = spec.clamp;
  CsrMatrix residual;
  if (!clamp.enabled() || clamp.residual != ResidualMode::Sparse) return residual;
  const std::int64_t n = clamp.per_row ? cols : rows * cols;
  const std::int64_t capacity =
      rows * cols == 0 ? 0 : quant_cpu::quantile_index(clamp.alpha, n).outside(n) * (clamp.per_row ? rows : 1);
  require(capacity <= std::numeric_limits<std::int32_t>::max(),
          "a residual of up to {} entries does not fit 32-bit indices", capacity);
  residual.rows = rows;
  residual.cols = cols;
  residual.row_begin = arena.allocate(DType::I32, {rows + 1});
  residual.col = arena.allocate(DType::I32, {capacity});
  residual.value = arena.allocate(DType::F32, {capacity});
  return residual;
}

void keep_residual(const Job& job, const std::int32_t* counted, const CsrMatrix& residual) {
  auto* begin = residual.row_begin.data<std::int32_t>();
  dispatch_float(job.dtype, [&]<class T>(T*) {
    const unsigned blocks = blocks_for(32 * job.rows(), kThreads);
    const std::int32_t* counts = counted;
    if (counts == nullptr) {
      auto* here = job.scratch<std::int32_t>(job.rows());
      count_entries_kernel<T><<<blocks, kThreads, 0, cuda::stream()>>>(job.source, here);
      cuda::launched("count_entries_kernel");
      counts = here;
    }
    add_up(job, counts, begin);
    write_entries_kernel<T><<<blocks, kThreads, 0, cuda::stream()>>>(
        job.source, begin, residual.col.data<std::int32_t>(), residual.value.data<float>());
    cuda::launched("write_entries_kernel");
  });
}

void gather_residual(const Job& job, const CutOffRows& rows, const CsrMatrix& residual) {
  auto* begin = residual.row_begin.data<std::int32_t>();
  add_up(job, rows.counts, begin);
  gather_entries_kernel<<<blocks_for(32 * job.rows(), kThreads), kThreads, 0, cuda::stream()>>>(
      rows, static_cast<std::uint32_t>(job.rows()), begin, residual.col.data<std::int32_t>(),
      residual.value.data<float>());
  cuda::launched("gather_entries_kernel");
}

}  // namespace nibble::quant_cuda
