#include "nibble/ops/cuda/csc.h"
#include "nibble/ops/cuda/spmm_dense.h"
#include "nibble/ops/cuda/spmm_piece.cuh"
#include "nibble/ops/spmm.h"
#include "nibble/tensor/cuda/runtime.h"

// For residuals that are not dense (those are in spmm_dense.cu). Both products gather: row r of the result is the sum
// over its entries (r, i, v) of v times row i of a dense matrix, W^T for fprop, dY for wgrad with the entries sorted by
// column. Each row of the dense matrix is read tens of times, more than L2 delivers in the time the additions take. So
// a block keeps a slab of the dense matrix, 64 bytes of each of up to 1536 rows, in shared memory, and gathers from
// there:
//
//             dense: | 64 bytes |                  four lanes gather a row of the result: 16 bytes each
//   stage 0  rows 0- |  slab    |  shared          128 such groups a block, four rows of the result a group,
//   stage 1   1536-  |  ...     |  memory          whose sums stay in registers through all stages
//
// Entries ascend within a row, so a group goes through them once, stage by stage, in order: no sum depends on timing.
// Two blocks a multiprocessor: one loads while the other adds.

namespace nibble::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kGroups = kThreads / 4;
constexpr int kOwn = 4;                     ///< rows of the result a group has
constexpr int kBlockRows = kGroups * kOwn;  ///< 512
constexpr int kSlabBytes = 64;              ///< of a dense row
constexpr std::int64_t kStageRows = 1536;   ///< 96 KiB: two blocks fit on a Hopper, one on smaller GPUs
/// Between columns of sums in shared memory; the odd one spreads them over the banks.
constexpr int kTransposedStride = kBlockRows + 1;

struct Entries {
  const std::int32_t* begin;  ///< [rows + 1]
  const std::int32_t* index;
  const float* value;
  std::int64_t rows;
};

/// slab[r] = 64 bytes of dense rows [first, first + count) from column `col`; zeros beyond column n.
template <class W>
__device__ void load_slab(const W* dense, std::int64_t n, std::int64_t first, int count, std::int64_t col, bool whole,
                          uint4* slab) {
  constexpr int kLane = 16 / sizeof(W);
  for (int i = static_cast<int>(threadIdx.x); i < count * 4; i += kThreads) {
    const std::int64_t c = col + i % 4 * kLane;
    const W* from = dense + (first + i / 4) * n + c;
    if (whole && c < n) {
      const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(slab + i));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
    } else {
      W* to = reinterpret_cast<W*>(slab + i);
#pragma unroll
      for (int j = 0; j < kLane; ++j) to[j] = c + j < n ? from[j] : W{};
    }
  }
  asm volatile("cp.async.wait_all;");
}

/// out[r, :] += sum of entries, out [rows, n], or out [n, rows] transposed. Bound by shared memory and the additions:
/// four 16-byte reads and 64 fused multiply-adds an entry and slab of BF16.
template <class W, class Y, bool kTransposed>
__global__ __launch_bounds__(kThreads, 2) void gather(Entries entries, const W* dense, std::int64_t dense_rows,
                                                      std::int64_t n, int stage_rows, bool whole_dense, Y* out,
                                                      bool whole_out) {
  constexpr int kLane = 16 / sizeof(W);
  constexpr int kSlabCols = kSlabBytes / sizeof(W);
  extern __shared__ uint4 slab[];
  const int group = static_cast<int>(threadIdx.x) / 4;
  const int lane = static_cast<int>(threadIdx.x) % 4;
  const std::int64_t col = std::int64_t{blockIdx.x} * kSlabCols;
  const std::int64_t first_row = std::int64_t{blockIdx.y} * kBlockRows;

  float sum[kOwn][kLane] = {};
  std::int32_t next[kOwn];
  std::int32_t end[kOwn];
#pragma unroll
  for (int p = 0; p < kOwn; ++p) {
    const std::int64_t r = first_row + p * kGroups + group;
    next[p] = r < entries.rows ? entries.begin[r] : 0;
    end[p] = r < entries.rows ? entries.begin[r + 1] : 0;
  }
  for (std::int64_t first = 0; first < dense_rows; first += stage_rows) {
    const int count = static_cast<int>(std::min<std::int64_t>(stage_rows, dense_rows - first));
    __syncthreads();
    load_slab(dense, n, first, count, col, whole_dense, slab);
    __syncthreads();
    const std::int32_t base = static_cast<std::int32_t>(first);
    const std::int32_t limit = base + count;
#pragma unroll
    for (int p = 0; p < kOwn; ++p) {
      std::int32_t i = next[p];
      // The next entry is on its way while one is added.
      std::int32_t index = i < end[p] ? __ldg(entries.index + i) : limit;
      float value = i < end[p] ? __ldg(entries.value + i) : 0.0f;
      while (index < limit) {
        const uint4 piece = slab[(index - base) * 4 + lane];
        const float v = value;
        ++i;
        index = i < end[p] ? __ldg(entries.index + i) : limit;
        value = i < end[p] ? __ldg(entries.value + i) : 0.0f;
        multiply_add(v, piece, sum[p]);
      }
      next[p] = i;
    }
  }

  if constexpr (kTransposed) {
    float* sums = reinterpret_cast<float*>(slab);
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kOwn; ++p) {
#pragma unroll
      for (int j = 0; j < kLane; ++j) sums[(lane * kLane + j) * kTransposedStride + p * kGroups + group] = sum[p][j];
    }
    __syncthreads();
    const int rows = static_cast<int>(std::min<std::int64_t>(kBlockRows, entries.rows - first_row));
    for (int c = static_cast<int>(threadIdx.x) / 32; c < kSlabCols && col + c < n; c += kThreads / 32) {
      Y* to = out + (col + c) * entries.rows + first_row;
      for (int r = static_cast<int>(threadIdx.x) % 32; r < rows; r += 32) {
        to[r] = from_float<Y>(to_float(to[r]) + sums[c * kTransposedStride + r]);
      }
    }
  } else {
#pragma unroll
    for (int p = 0; p < kOwn; ++p) {
      const std::int64_t r = first_row + p * kGroups + group;
      if (r < entries.rows) add_piece(sum[p], out + r * n, col + lane * kLane, n, whole_out);
    }
  }
}

template <class W, class Y, bool kTransposed>
void launch(const Entries& entries, const Tensor& dense, const Tensor& out) {
  constexpr std::int64_t kSlabCols = kSlabBytes / sizeof(W);
  const std::int64_t rows = dense.dim(0);
  const std::int64_t n = dense.dim(1);
  const std::int64_t stages = (rows + kStageRows - 1) / kStageRows;
  const std::int64_t stage_rows = (rows + stages - 1) / stages;
  const std::int64_t transposed_bytes = kTransposed ? kSlabCols * kTransposedStride * 4 : 0;
  const auto shared = static_cast<int>(std::max(stage_rows * kSlabBytes, transposed_bytes));
  static const bool allowed = [] {
    check(cudaFuncSetAttribute(gather<W, Y, kTransposed>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(kStageRows) * kSlabBytes),
          "asking for shared memory");
    return true;
  }();
  static_cast<void>(allowed);
  const std::int64_t row_blocks = (entries.rows + kBlockRows - 1) / kBlockRows;
  require(row_blocks <= 65535, "spmm: {} rows of the result", entries.rows);
  const dim3 grid(static_cast<unsigned>((n + kSlabCols - 1) / kSlabCols), static_cast<unsigned>(row_blocks));
  gather<W, Y, kTransposed><<<grid, kThreads, static_cast<std::size_t>(shared), stream()>>>(
      entries, dense.data<W>(), rows, n, static_cast<int>(stage_rows), aligned_rows(dense), out.data<Y>(),
      !kTransposed && aligned_rows(out));
  launched("gather");
}

}  // namespace

void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena& scratch) {
  if (y.numel() == 0 || residual.cols == 0 || residual.col.numel() == 0) return;
  if (w_transposed.dtype() == DType::BF16 && is_dense_residual(residual)) {
    return dense_fprop(residual, w_transposed, y, scratch);
  }
  const Entries entries{device_data<std::int32_t>(residual.row_begin, "spmm_fprop"),
                        device_data<std::int32_t>(residual.col, "spmm_fprop"),
                        device_data<float>(residual.value, "spmm_fprop"), residual.rows};
  dispatch_float(w_transposed.dtype(), [&](auto* w) {
    dispatch_float(y.dtype(), [&](auto* out) {
      using W = std::remove_pointer_t<decltype(w)>;
      using Y = std::remove_pointer_t<decltype(out)>;
      launch<W, Y, false>(entries, w_transposed, y);
    });
  });
}

void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch) {
  if (dw.numel() == 0 || residual.rows == 0 || residual.col.numel() == 0) return;
  if (is_dense_residual(residual)) return dense_wgrad(residual, dy, dw, scratch);
  const ArenaScope scope(scratch);
  const CscMatrix columns = by_column(residual, CscValues::Whole, scratch);
  const Entries entries{columns.begin, columns.row, columns.value, residual.cols};
  dispatch_float(dy.dtype(), [&](auto* p) {
    using Dy = std::remove_pointer_t<decltype(p)>;
    launch<Dy, float, true>(entries, dy, dw);
  });
}

}  // namespace nibble::cuda
