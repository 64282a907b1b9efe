#include "nibble/ops/spmm.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {
namespace {

constexpr int kTile = 64;

/// Four elements, 8 or 16 bytes.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T x[4];
};

/// Bound by memory. A block of 256 threads moves a tile of 64 x 64 through shared memory as F32; on either side 16
/// threads take a row, four elements each, in four rounds of 16 rows, all loads first. The odd stride leaves two-way
/// bank conflicts at most.
template <class From, class To>
__global__ __launch_bounds__(256) void transpose_tiles(const From* from, To* to, std::int64_t rows, std::int64_t cols,
                                                       std::int64_t col_tiles, bool whole_from, bool whole_to) {
  __shared__ float tile[kTile][kTile + 1];
  const std::int64_t r0 = blockIdx.x / col_tiles * kTile;
  const std::int64_t c0 = blockIdx.x % col_tiles * kTile;
  const int four = static_cast<int>(threadIdx.x) % 16 * 4;
  const int line = static_cast<int>(threadIdx.x) / 16;

  Four<From> x[4] = {};
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const std::int64_t r = r0 + line + 16 * u;
    const std::int64_t c = c0 + four;
    if (r >= rows) continue;
    const From* p = from + r * cols + c;
    if (whole_from && c < cols) {
      x[u] = *reinterpret_cast<const Four<From>*>(p);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (c + j < cols) x[u].x[j] = p[j];
      }
    }
  }
#pragma unroll
  for (int u = 0; u < 4; ++u) {
#pragma unroll
    for (int j = 0; j < 4; ++j) tile[line + 16 * u][four + j] = to_float(x[u].x[j]);
  }
  __syncthreads();
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const std::int64_t c = c0 + line + 16 * u;
    const std::int64_t r = r0 + four;
    if (c >= cols) continue;
    Four<To> y;
#pragma unroll
    for (int j = 0; j < 4; ++j) y.x[j] = from_float<To>(tile[four + j][line + 16 * u]);
    To* p = to + c * rows + r;
    if (whole_to && r < rows) {
      *reinterpret_cast<Four<To>*>(p) = y;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (r + j < rows) p[j] = y.x[j];
      }
    }
  }
}

/// Rows are whole, aligned fours.
template <class T>
bool whole_fours(const Tensor& x) {
  return x.cols() % 4 == 0 && reinterpret_cast<std::uintptr_t>(x.raw()) % sizeof(Four<T>) == 0;
}

}  // namespace

void transpose(const Tensor& from, const Tensor& to) {
  const std::int64_t rows = from.dim(0);
  const std::int64_t cols = from.dim(1);
  if (rows == 0 || cols == 0) return;
  const std::int64_t col_tiles = (cols + kTile - 1) / kTile;
  const std::int64_t tiles = (rows + kTile - 1) / kTile * col_tiles;
  require(tiles < (std::int64_t{1} << 31), "transpose: {}", to_string(from));
  dispatch_float(from.dtype(), [&](auto* f) {
    dispatch_float(to.dtype(), [&](auto* t) {
      using From = std::remove_pointer_t<decltype(f)>;
      using To = std::remove_pointer_t<decltype(t)>;
      transpose_tiles<<<static_cast<unsigned>(tiles), 256, 0, stream()>>>(
          from.data<From>(), to.data<To>(), rows, cols, col_tiles, whole_fours<From>(from), whole_fours<To>(to));
    });
  });
  launched("transpose_tiles");
}

}  // namespace nibble::cuda
