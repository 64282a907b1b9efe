#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/csc.h"
#include "nibble/ops/cuda/spmm_dense.h"
#include "nibble/ops/cuda/spmm_parts.h"
#include "nibble/ops/cuda/spmm_piece.cuh"
#include "nibble/tensor/cuda/runtime.h"

// An entry v of the residual is high + low (spmm_parts.h). All high parts, as a dense BF16 matrix R, are multiplied on
// tensor cores; the low parts are F32, few, and added from the entries themselves:
//
//   fprop   Y  += R W^T                            then row t of Y += low(t, i) * W^T[i, :]
//   wgrad   dW += dY^T R                           then column i of dW += low(t, i) * dY[t, :]
//           dW += high(dY)^T R + low(dY)^T R       where dY is F32, with its low parts rounded to BF16
//
// Of a residual that clamping BF16 values to one of them leaves, only those further from zero than twice the bound can
// have a low part: their differences alone need more bits than BF16 has. They are apt to lie in a few columns, which
// then hold an entry in most rows. Rows of W^T and dY are read from L2 for each entry: with so few, holding slabs of
// them in shared memory, as in spmm.cu, costs more than the reads.

namespace nibble::cuda {
namespace {

constexpr int kWarps = 8;  ///< of a block, a row each

/// out[rows, cols] = the high parts, zeros elsewhere. Bound by the writes. A warp takes a row: zeros first, and on top
/// of them, while they are in L2, the entries.
__global__ __launch_bounds__(kWarps * 32) void scatter_high(const std::int32_t* row_begin, const std::int32_t* col,
                                                            const float* value, std::int64_t rows, std::int64_t cols,
                                                            bool whole, bf16* out) {
  const std::int64_t r = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const std::int32_t end = row_begin[r + 1];
  std::int32_t i = row_begin[r] + lane;
  bf16* row = out + r * cols;
  if (whole) {
    for (std::int64_t c = lane * 8; c < cols; c += 32 * 8) *reinterpret_cast<uint4*>(row + c) = uint4{};
  } else {
    for (std::int64_t c = lane; c < cols; c += 32) row[c] = bf16{};
  }
  __syncwarp();  // no lane's zeros come after another's entries
  for (; i < end; i += 32) row[col[i]] = parts_of(value[i]).high;
}

/// high + low = from, but for what a BF16 low part cannot hold. Bound by memory, eight elements a thread.
__global__ __launch_bounds__(256) void split(const float* from, std::int64_t n, bool whole, bf16* high, bf16* low) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 8;
  if (first >= n) return;
  struct alignas(16) Floats {
    float x[8];
  };
  struct alignas(16) Eight {
    bf16 x[8];
  };
  Floats v{};
  if (whole) {
    v = *reinterpret_cast<const Floats*>(from + first);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) v.x[j] = first + j < n ? from[first + j] : 0.0f;
  }
  Eight h;
  Eight l;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const Parts parts = parts_of(v.x[j]);
    h.x[j] = parts.high;
    l.x[j] = bf16_encode(parts.low);
  }
  if (whole) {
    *reinterpret_cast<Eight*>(high + first) = h;
    *reinterpret_cast<Eight*>(low + first) = l;
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (first + j >= n) break;
    high[first + j] = h.x[j];
    low[first + j] = l.x[j];
  }
}

constexpr int kAhead = 4;                       ///< entries whose rows are on their way at a time
constexpr int kPieces = 2;                      ///< of 16 bytes that a lane has of a row
constexpr int kPieceCols = 32 * 8;              ///< of a warp
constexpr int kRowCols = kPieces * kPieceCols;  ///< 512

/// Y[r, :] += low parts of row r times W^T. A warp takes 512 columns of a row. It looks at 32 entries at a time, votes
/// which have a low part, and goes through those in order; where none has one, it ends without touching Y.
template <class Y>
__global__ __launch_bounds__(kWarps * 32) void add_low_by_row(const std::int32_t* row_begin, const std::int32_t* col,
                                                              const float* value, std::int64_t rows, const bf16* w,
                                                              std::int64_t n, bool whole_w, Y* y, bool whole_y) {
  const std::int64_t r = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const auto lane = static_cast<std::int32_t>(threadIdx.x % 32);
  const std::int64_t c = std::int64_t{blockIdx.y} * kRowCols + lane * 8;
  const std::int32_t end = row_begin[r + 1];
  float sum[kPieces][8] = {};
  bool any = false;
  for (std::int32_t first = row_begin[r]; first < end; first += 32) {
    const bool inside = lane < end - first;
    const float low = inside ? parts_of(__ldg(value + first + lane)).low : 0.0f;
    const std::int32_t index = inside ? __ldg(col + first + lane) : 0;
    unsigned left = __ballot_sync(0xFFFF'FFFFu, low != 0.0f);
    any = any || left != 0;
    while (left != 0) {
      float v[kAhead];
      uint4 piece[kAhead][kPieces];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const bool there = left != 0;
        const int from = there ? __ffs(static_cast<int>(left)) - 1 : 0;
        left &= left - 1;
        v[u] = __shfl_sync(0xFFFF'FFFFu, low, from);
        const bf16* row = w + __shfl_sync(0xFFFF'FFFFu, index, from) * n;
        if (!there) v[u] = 0.0f;
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          piece[u][p] = there ? load_row_piece(row, c + p * kPieceCols, n, whole_w) : uint4{};
        }
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) multiply_add(v[u], piece[u][p], sum[p]);
      }
    }
  }
  if (!any) return;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) add_piece(sum[p], y + r * n, c + p * kPieceCols, n, whole_y);
}

constexpr int kColumns = 8;      ///< of dW that a block has: 32 bytes of each of its rows
constexpr int kWorkers = 64;     ///< of eight lanes, which read 128 bytes of a row of dY
constexpr int kColumnAhead = 6;  ///< more do not fit into the registers of two blocks a multiprocessor

/// Columns of dW += low parts times dY. The entries of eight columns lie in one stretch, which is cut into 64 equal
/// pieces, a worker each, so that a column with an entry in every row takes no longer than eight of average length:
///
///              | column 0      |1|  2  | 3 |   ...         a column belongs to the worker that has its first entry;
///   workers    |   0   |   1   |   2   |   3   | ...       later ones carry what they have of it, and the owner's sum
///                               and theirs are added in their order
template <class Dy>
__global__ __launch_bounds__(kWorkers * 8, 2) void add_low_by_column(CscMatrix low, std::int64_t cols, const Dy* dy,
                                                                     std::int64_t n, bool whole, float* dw) {
  constexpr int kLane = 16 / sizeof(Dy);
  constexpr int kSlab = 8 * kLane;
  __shared__ std::int32_t begin[kColumns + 1];
  __shared__ __align__(16) float own[kColumns][kSlab + 4];  // the last four spread columns over the banks
  __shared__ __align__(16) float carried[kWorkers][kSlab];
  const std::int64_t first_column = std::int64_t{blockIdx.x} * kColumns;
  const std::int64_t first_row = std::int64_t{blockIdx.y} * kSlab;
  if (threadIdx.x <= kColumns) begin[threadIdx.x] = low.begin[std::min(first_column + threadIdx.x, cols)];
  __syncthreads();
  const std::int64_t start = begin[0];
  const std::int64_t end = begin[kColumns];
  if (start == end) return;
  const std::int64_t share = (end - start + kWorkers - 1) / kWorkers;
  const int worker = static_cast<int>(threadIdx.x) / 8;
  const int lane = static_cast<int>(threadIdx.x) % 8;
  const std::int64_t mine = std::min(start + worker * share, end);
  const std::int64_t mine_end = std::min(mine + share, end);
  for (int j = 0; j < kColumns; ++j) {
    const std::int64_t first = std::max<std::int64_t>(mine, begin[j]);
    const auto count = static_cast<int>(std::min<std::int64_t>(mine_end, begin[j + 1]) - first);
    if (count <= 0) continue;
    const float* value = low.value + first;
    const std::int32_t* row = low.row + first;
    float sum[kLane] = {};
    for (int i = 0; i < count; i += kColumnAhead) {
      float v[kColumnAhead];
      std::int32_t r[kColumnAhead];
      uint4 piece[kColumnAhead];
#pragma unroll
      for (int u = 0; u < kColumnAhead; ++u) {
        v[u] = i + u < count ? __ldg(value + i + u) : 0.0f;
        r[u] = i + u < count ? __ldg(row + i + u) : 0;
      }
#pragma unroll
      for (int u = 0; u < kColumnAhead; ++u) {
        piece[u] = i + u < count ? load_row_piece(dy + r[u] * n, first_row + lane * kLane, n, whole) : uint4{};
      }
#pragma unroll
      for (int u = 0; u < kColumnAhead; ++u) multiply_add(v[u], piece[u], sum);
    }
    float* to = begin[j] >= mine ? own[j] : carried[worker];
#pragma unroll
    for (int x = 0; x < kLane; x += 4) {
      *reinterpret_cast<float4*>(to + lane * kLane + x) = {sum[x], sum[x + 1], sum[x + 2], sum[x + 3]};
    }
  }
  __syncthreads();
  for (int x = static_cast<int>(threadIdx.x); x < kColumns * kSlab; x += kWorkers * 8) {
    const int j = x % kColumns;
    const int row = x / kColumns;
    if (begin[j] == begin[j + 1] || first_row + row >= n) continue;
    float sum = own[j][row];
    for (std::int64_t w = (begin[j] - start) / share + 1; start + w * share < begin[j + 1]; ++w) sum += carried[w][row];
    dw[(first_row + row) * cols + first_column + j] += sum;
  }
}

Tensor high_parts(const CsrMatrix& m, Arena& scratch) {
  const Tensor dense = scratch.allocate(DType::BF16, {m.rows, m.cols});
  scatter_high<<<static_cast<unsigned>((m.rows + kWarps - 1) / kWarps), kWarps * 32, 0, stream()>>>(
      m.row_begin.data<std::int32_t>(), m.col.data<std::int32_t>(), m.value.data<float>(), m.rows, m.cols,
      aligned_rows(dense), dense.data<bf16>());
  launched("scatter_high");
  return dense;
}

}  // namespace

void dense_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena& scratch) {
  const std::int64_t n = y.dim(1);
  {
    const ArenaScope scope(scratch);
    const QTensor high = QTensor::view(high_parts(residual, scratch));
    const QTensor w = QTensor::view(w_transposed);
    cuda::gemm({high}, {w, /*transposed=*/true}, y, Accumulate::Add, scratch);
  }
  const std::int64_t slabs = (n + kRowCols - 1) / kRowCols;
  require(slabs <= 65535, "spmm_fprop: {} columns of Y", n);
  const dim3 grid(static_cast<unsigned>((residual.rows + kWarps - 1) / kWarps), static_cast<unsigned>(slabs));
  dispatch_float(y.dtype(), [&](auto* p) {
    using Y = std::remove_pointer_t<decltype(p)>;
    add_low_by_row<Y><<<grid, kWarps * 32, 0, stream()>>>(
        residual.row_begin.data<std::int32_t>(), residual.col.data<std::int32_t>(), residual.value.data<float>(),
        residual.rows, w_transposed.data<bf16>(), n, aligned_rows(w_transposed), y.data<Y>(), aligned_rows(y));
  });
  launched("add_low_by_row");
}

void dense_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch) {
  const std::int64_t n = dw.dim(0);
  {
    const ArenaScope scope(scratch);
    const QTensor high = QTensor::view(high_parts(residual, scratch));
    const auto add_product = [&](const Tensor& gradient) {
      const QTensor q = QTensor::view(gradient);
      cuda::gemm({q, /*transposed=*/true}, {high, /*transposed=*/true}, dw, Accumulate::Add, scratch);
    };
    if (dy.dtype() == DType::BF16) {
      add_product(dy);
    } else {
      const Tensor dy_high = scratch.allocate(DType::BF16, {dy.dim(0), n});
      const Tensor dy_low = scratch.allocate(DType::BF16, {dy.dim(0), n});
      const std::int64_t count = dy.numel();
      const bool whole = count % 8 == 0 && reinterpret_cast<std::uintptr_t>(dy.raw()) % 16 == 0;
      split<<<static_cast<unsigned>((count + 2047) / 2048), 256, 0, stream()>>>(
          dy.data<float>(), count, whole, dy_high.data<bf16>(), dy_low.data<bf16>());
      launched("split");
      add_product(dy_high);
      add_product(dy_low);
    }
  }
  const ArenaScope scope(scratch);
  const CscMatrix low = by_column(residual, CscValues::Low, scratch);
  dispatch_float(dy.dtype(), [&](auto* p) {
    using Dy = std::remove_pointer_t<decltype(p)>;
    constexpr std::int64_t kSlab = 8 * 16 / sizeof(Dy);
    const std::int64_t slabs = (n + kSlab - 1) / kSlab;
    require(slabs <= 65535, "spmm_wgrad: {} rows of dW", n);
    const dim3 grid(static_cast<unsigned>((residual.cols + kColumns - 1) / kColumns), static_cast<unsigned>(slabs));
    add_low_by_column<Dy>
        <<<grid, kWorkers * 8, 0, stream()>>>(low, residual.cols, dy.data<Dy>(), n, aligned_rows(dy), dw.data<float>());
  });
  launched("add_low_by_column");
}

}  // namespace nibble::cuda
