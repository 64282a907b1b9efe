#include "nibble/ops/cuda/csc.h"
#include "nibble/ops/cuda/spmm_parts.h"
#include "nibble/tensor/cuda/runtime.h"

// A counting sort by column that keeps the rows in order. Rows are cut into runs:
//
//   count    next[run, c] = entries of column c in the run
//   offsets  next[run, c] = entries of column c in earlier runs; total[c]
//   scan     begin[c] = entries in earlier columns
//   place    a warp walks through the rows of a run; a row has a column once at most, so its lanes don't meet
//
// Few bytes, but dependent loads: the time is that of a run's walk, so runs are short.

namespace nibble::cuda {
namespace {

constexpr std::int64_t kRowsPerRun = 16;
constexpr std::int64_t kCounters = std::int64_t{1} << 23;  ///< at most, 32 MiB
constexpr int kSegments = 16;                              ///< of the runs, in `offsets`

template <CscValues kValues>
__device__ float kept_value(float v) {
  return kValues == CscValues::Low ? parts_of(v).low : v;
}

template <CscValues kValues>
__global__ void count(const std::int32_t* row_begin, const std::int32_t* col, const float* value, std::int64_t rows,
                      std::int64_t rows_per_run, std::int64_t cols, std::int32_t* next) {
  const std::int64_t first = std::int64_t{blockIdx.x} * rows_per_run;
  const std::int32_t end = row_begin[std::min(rows, first + rows_per_run)];
  std::int32_t* counts = next + std::int64_t{blockIdx.x} * cols;
  for (std::int32_t i = row_begin[first] + static_cast<std::int32_t>(threadIdx.x); i < end;
       i += static_cast<std::int32_t>(blockDim.x)) {
    if (kValues == CscValues::Low && kept_value<kValues>(value[i]) == 0.0f) continue;
    atomicAdd(&counts[col[i]], 1);  // integers: the order does not show
  }
}

/// 32 columns a block; each row of threads takes a segment of the runs.
__global__ void offsets(std::int64_t runs, std::int64_t cols, std::int32_t* next, std::int32_t* total) {
  __shared__ std::int32_t sums[kSegments][32];
  const std::int64_t c = std::int64_t{blockIdx.x} * 32 + threadIdx.x;
  const std::int64_t length = (runs + kSegments - 1) / kSegments;
  const std::int64_t first = threadIdx.y * length;
  const std::int64_t last = std::min(runs, first + length);
  std::int32_t sum = 0;
  if (c < cols) {
#pragma unroll 8
    for (std::int64_t run = first; run < last; ++run) sum += next[run * cols + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (c >= cols) return;
  std::int32_t before = 0;
  for (unsigned s = 0; s < threadIdx.y; ++s) before += sums[s][threadIdx.x];
  if (threadIdx.y == kSegments - 1) total[c] = before + sum;
#pragma unroll 8
  for (std::int64_t run = first; run < last; ++run) {
    const std::int32_t n = next[run * cols + c];
    next[run * cols + c] = before;
    before += n;
  }
}

__device__ std::int32_t scan_warp(std::int32_t x) {
  for (int distance = 1; distance < 32; distance *= 2) {
    const std::int32_t other = __shfl_up_sync(0xFFFF'FFFFu, x, distance);
    if (static_cast<int>(threadIdx.x % 32) >= distance) x += other;
  }
  return x;
}

/// begin[0] = 0, begin[c + 1] = total[0] + ... + total[c]; one block of 1024 threads.
__global__ void scan(const std::int32_t* total, std::int64_t cols, std::int32_t* begin) {
  __shared__ std::int32_t of_warp[32];
  std::int32_t before = 0;
  if (threadIdx.x == 0) begin[0] = 0;
  for (std::int64_t first = 0; first < cols; first += 1024) {
    const std::int64_t c = first + threadIdx.x;
    const std::int32_t within = scan_warp(c < cols ? total[c] : 0);
    if (threadIdx.x % 32 == 31) of_warp[threadIdx.x / 32] = within;
    __syncthreads();
    std::int32_t warps_before = 0;
    std::int32_t all = 0;
    for (unsigned w = 0; w < 32; ++w) {
      if (w < threadIdx.x / 32) warps_before += of_warp[w];
      all += of_warp[w];
    }
    if (c < cols) begin[c + 1] = before + warps_before + within;
    before += all;
    __syncthreads();
  }
}

template <CscValues kValues>
__global__ void place(const std::int32_t* row_begin, const std::int32_t* col, const float* value, std::int64_t rows,
                      std::int64_t rows_per_run, std::int64_t runs, std::int64_t cols, const std::int32_t* begin,
                      std::int32_t* next, std::int32_t* sorted_row, float* sorted_value) {
  const std::int64_t run = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (run >= runs) return;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  std::int32_t* places = next + run * cols;
  const std::int64_t last = std::min(rows, (run + 1) * rows_per_run);
  for (std::int64_t r = run * rows_per_run; r < last; ++r) {
    const std::int32_t end = row_begin[r + 1];
    for (std::int32_t i = row_begin[r] + lane; i < end; i += 32) {
      const float v = kept_value<kValues>(value[i]);
      if (kValues == CscValues::Low && v == 0.0f) continue;
      const std::int32_t c = col[i];
      const std::int32_t n = places[c];
      places[c] = n + 1;
      const std::int32_t p = begin[c] + n;
      sorted_row[p] = static_cast<std::int32_t>(r);
      sorted_value[p] = v;
    }
    __syncwarp();  // the next row's lanes see these places
  }
}

}  // namespace

CscMatrix by_column(const CsrMatrix& m, CscValues values, Arena& scratch) {
  const bool low = values == CscValues::Low;
  const std::int64_t most_runs = std::max<std::int64_t>(1, kCounters / std::max<std::int64_t>(1, m.cols));
  const std::int64_t rows_per_run = std::max(kRowsPerRun, (m.rows + most_runs - 1) / most_runs);
  const std::int64_t runs = (m.rows + rows_per_run - 1) / rows_per_run;
  const std::int64_t capacity = m.col.numel();
  const std::int32_t* row_begin = device_data<std::int32_t>(m.row_begin, "spmm");
  const std::int32_t* col = device_data<std::int32_t>(m.col, "spmm");
  const float* value = device_data<float>(m.value, "spmm");
  const Tensor next = scratch.allocate(DType::I32, {runs, m.cols});
  std::int32_t* total = scratch.allocate(DType::I32, {m.cols}).data<std::int32_t>();
  std::int32_t* begin = scratch.allocate(DType::I32, {m.cols + 1}).data<std::int32_t>();
  std::int32_t* row = scratch.allocate(DType::I32, {capacity}).data<std::int32_t>();
  float* sorted = scratch.allocate(DType::F32, {capacity}).data<float>();

  check(cudaMemsetAsync(next.raw(), 0, next.bytes(), stream()), "clearing counters");
  auto* const count_kernel = low ? count<CscValues::Low> : count<CscValues::Whole>;
  count_kernel<<<static_cast<unsigned>(runs), 128, 0, stream()>>>(row_begin, col, value, m.rows, rows_per_run, m.cols,
                                                                  next.data<std::int32_t>());
  launched("count");
  offsets<<<static_cast<unsigned>((m.cols + 31) / 32), dim3(32, kSegments), 0, stream()>>>(
      runs, m.cols, next.data<std::int32_t>(), total);
  launched("offsets");
  scan<<<1, 1024, 0, stream()>>>(total, m.cols, begin);
  launched("scan");
  auto* const place_kernel = low ? place<CscValues::Low> : place<CscValues::Whole>;
  place_kernel<<<static_cast<unsigned>((runs + 3) / 4), 128, 0, stream()>>>(
      row_begin, col, value, m.rows, rows_per_run, runs, m.cols, begin, next.data<std::int32_t>(), row, sorted);
  launched("place");
  return {begin, row, sorted};
}

}  // namespace nibble::cuda
