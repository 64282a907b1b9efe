// The bounds of rows of BF16 under quantiles of their own: the row is read once and stays in the registers of a thread
// block, pieces of eight columns a thread, where its bounds are found (row_select.cuh). Bound by issue slots.
#include "nibble/quant/cuda/row_select.cuh"
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kMostLanes = 32 * kMostWarps;
constexpr std::int64_t kLeastCols = 256;  // every lane of a warp has a piece
constexpr std::int64_t kMostCols = 16'384;
constexpr int kPiecesOf[] = {8, 5, 3};

struct Arguments {
  const bf16* x = nullptr;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  std::uint32_t low = 0;  ///< positions of the bounds in the sorted row
  std::uint32_t high = 0;
  std::uint32_t share[2] = {};  ///< of the high and of the low bound's rank, for each warp
  Bounds* bounds = nullptr;
  std::int32_t* counts = nullptr;  ///< of what the bounds cut off; may be null
};

__device__ __forceinline__ bool is_cut_off(std::uint32_t bits, Bounds bounds) {
  const float y = bits_float(bits << 16);
  return y - quant_cpu::key_float(min(max(quant_cpu::float_key(y), bounds.low), bounds.high)) != 0.0f;
}

/// What a thread finds of the row's entries: all of them are listed, or none.
static __device__ __noinline__ std::uint32_t count_cut_off(const bf16* row, const Arguments& a, Bounds bounds,
                                                           bool listed, const SelectRoom& room) {
  std::uint32_t count = 0;
  if (listed) {
    for (std::uint32_t i = threadIdx.x; i < room.listed; i += blockDim.x) {
      count += is_cut_off(bf16_of_key(room.list[i] >> 16), bounds) ? 1 : 0;
    }
  } else {
    for (std::uint32_t c = threadIdx.x; c < a.cols; c += blockDim.x) count += is_cut_off(row[c].bits, bounds) ? 1 : 0;
  }
  return count;
}

template <int kPieces>
__global__ void __launch_bounds__(kMostLanes) row_bounds_kernel(const __grid_constant__ Arguments a) {
  __shared__ SelectRoom room;
  __shared__ std::uint32_t entries;
  const bf16* row = a.x + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  const RowInRegisters<kPieces> y(row, a.cols);
  const std::uint32_t rank[2] = {a.cols - a.high, a.low + 1};
  if (threadIdx.x == 0) entries = 0;
  const bool quick = select_quickly(y, rank, a.share, room);
  if (!quick) select_slowly(row, a.cols, a.low, a.high, room);
  __syncthreads();
  Bounds bounds;
  bounds.low = selected_key(room.found[kLow], true);
  bounds.high = selected_key(room.found[kHigh], true);
  if (threadIdx.x == 0) a.bounds[blockIdx.x] = bounds;
  if (a.counts == nullptr) return;
  const std::uint32_t count = __reduce_add_sync(0xFFFF'FFFFu, count_cut_off(row, a, bounds, quick, room));
  if (threadIdx.x % 32 == 0) atomicAdd(&entries, count);
  __syncthreads();
  if (threadIdx.x == 0) a.counts[blockIdx.x] = static_cast<std::int32_t>(entries);
}

struct Layout {
  int pieces = 0;
  int lanes = 0;
};

/// The most pieces a thread of those that leave the fewest idle.
Layout layout_for(std::int64_t cols) {
  const std::int64_t chunks = cols / 8;
  Layout best;
  for (const int pieces : kPiecesOf) {
    const auto lanes = static_cast<int>((chunks + pieces * 32 - 1) / (pieces * 32) * 32);
    if (lanes > kMostLanes) break;
    if (best.lanes == 0 || lanes * pieces < best.lanes * best.pieces) best = {pieces, lanes};
  }
  return best;
}

std::uint32_t share_of(std::int64_t rank, int lanes) {
  const int warps = lanes / 32;
  return static_cast<std::uint32_t>((rank + warps - 1) / warps);
}

}  // namespace

bool fits_row_selection(const Job& job) {
  const SourceView& s = job.source;
  const std::int64_t n = job.cols();
  if (!job.spec.clamp.per_row || job.dtype != DType::BF16 || !s.wide || n < kLeastCols || n > kMostCols ||
      s.row_fold != nullptr || s.col_fold != nullptr || job.rotated()) {
    return false;
  }
  // A warp has 64 groups; the quantiles of more than half of them are no news of the row's.
  const Layout layout = layout_for(n);
  const quant_cpu::QuantileIndex index = quant_cpu::quantile_index(job.spec.clamp.alpha, n);
  return std::max(share_of(n - index.high, layout.lanes), share_of(index.low + 1, layout.lanes)) <= 32;
}

void select_row_bounds(const Job& job, Bounds* bounds, std::int32_t* counts) {
  const Layout layout = layout_for(job.cols());
  const quant_cpu::QuantileIndex index = quant_cpu::quantile_index(job.spec.clamp.alpha, job.cols());
  Arguments a;
  a.x = static_cast<const bf16*>(job.source.x);
  a.rows = job.source.rows;
  a.cols = job.source.cols;
  a.low = static_cast<std::uint32_t>(index.low);
  a.high = static_cast<std::uint32_t>(index.high);
  a.share[kHigh] = share_of(job.cols() - index.high, layout.lanes);
  a.share[kLow] = share_of(index.low + 1, layout.lanes);
  a.bounds = bounds;
  a.counts = counts;
  const auto lanes = static_cast<unsigned>(layout.lanes);
  switch (layout.pieces) {
    case 3: row_bounds_kernel<3><<<a.rows, lanes, 0, cuda::stream()>>>(a); break;
    case 5: row_bounds_kernel<5><<<a.rows, lanes, 0, cuda::stream()>>>(a); break;
    default: row_bounds_kernel<8><<<a.rows, lanes, 0, cuda::stream()>>>(a); break;
  }
  cuda::launched("row_bounds_kernel");
}

}  // namespace nibble::quant_cuda
