// Blocks within a row of a transposed operand, read through tiles: x is read once and no transpose is stored. Bound by
// memory.
//
// A thread block takes 64 rows by 128 columns of y, which are 128 rows by 64 columns of x:
//
//   load      a thread reads 8 columns of x; lane l column piece l % 4, row l / 4 of x     64 bytes of a row or more
//   shared    F32 [64][152], column c of y at c + c / 8
//   encode    a thread takes 8 columns of y; lane l piece l % 16                          a warp writes 2 x 64 bytes
//
// Rows are 152 = 24 (mod 32) words apart and eights 9, so that reads of a warp (16 eights of two rows, two apart) meet
// 32 banks. Writes of lane l begin with its element l % 4 instead of 0, which spreads the four pieces over the banks.
#include "nibble/quant/cuda/blocks.cuh"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 64;
constexpr int kTileCols = 128;
constexpr int kStride = 152;
constexpr int kWidest = kTileCols;

struct Tile {
  std::uint32_t row = 0;  ///< of y, the first
  std::uint32_t col = 0;
  __device__ __forceinline__ explicit Tile(FastDivide tiles) {
    const std::uint32_t band = tiles.quotient(blockIdx.x);
    row = kTileRows * band;
    col = kTileCols * (blockIdx.x - band * tiles.divisor());
  }
};

/// out[i] = y[(i + by) % 8], by from 0 to 3.
__device__ __forceinline__ void rotate(float (&y)[8], std::uint32_t by) {
  float once[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) once[i] = (by & 1u) != 0 ? y[(i + 1) % 8] : y[i];
#pragma unroll
  for (int i = 0; i < 8; ++i) y[i] = (by & 2u) != 0 ? once[(i + 2) % 8] : once[i];
}

/// Fills the tile from x; `source` is x as it stands. Ends with a barrier.
template <class T>
__device__ __forceinline__ void load_tile(const SourceView& source, Tile tile, float* shared) {
  constexpr int kPieces = kTileRows * kTileCols / 8 / kThreads;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t warp = threadIdx.x / 32;
  float y[kPieces][8];
#pragma unroll
  for (std::uint32_t k = 0; k < kPieces; ++k) {
    const std::uint32_t part = warp + k * (kThreads / 32);
    const std::uint32_t c = tile.col + part / 2 * 8 + lane / 4;        // of y: the row of x
    const std::uint32_t r = tile.row + 8 * (part % 2 * 4 + lane % 4);  // of y: the column of x
    if (c < source.rows && r < source.cols) {
      load_eight(static_cast<const T*>(source.x) + static_cast<std::int64_t>(c) * source.cols, r, source.cols,
                 source.wide, y[k]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) y[k][i] = 0.0f;
    }
  }
#pragma unroll
  for (std::uint32_t k = 0; k < kPieces; ++k) {
    const std::uint32_t part = warp + k * (kThreads / 32);
    const std::uint32_t c = part / 2 * 8 + lane / 4;
    const std::uint32_t r = 8 * (part % 2 * 4 + lane % 4);
    if (source.round_to_bf16) {
#pragma unroll
      for (int i = 0; i < 8; ++i) y[k][i] = bf16_round(y[k][i]);
    }
    rotate(y[k], lane % 4);
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) shared[(r + (i + lane % 4) % 8) * kStride + c + c / 8] = y[k][i];
  }
  __syncthreads();
}

/// Row k of those that a thread takes; the two of a warp are two apart.
__device__ __forceinline__ std::uint32_t row_of_tile(std::uint32_t k) {
  const std::uint32_t warp = threadIdx.x / 32 + k * (kThreads / 32);
  return warp / 2 * 4 + warp % 2 + threadIdx.x % 32 / 16 * 2;
}
constexpr std::uint32_t kRowsOfThread = kTileRows * kTileCols / 8 / kThreads;

/// Columns [8 (lane % 16), + 8) of that row, under the transform; c is the first in y.
__device__ __forceinline__ void read_tile(const SourceView& source, const float* shared, std::uint32_t row,
                                          std::uint32_t c, float (&y)[8]) {
  const float* from = shared + row * kStride + 9 * (threadIdx.x % 16);
#pragma unroll
  for (int i = 0; i < 8; ++i) y[i] = from[i];
  if (source.hadamard.group > 0) hadamard_forward(y, source.hadamard, c);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    encode_tiles_kernel(const __grid_constant__ SourceView source, const __grid_constant__ BlocksView view,
                        FastDivide tiles) {
  __shared__ float shared[kTileRows * kStride];
  __shared__ TensorScale tensor;
  const Tile tile(tiles);
  share_tensor_scale(view, tensor);
  load_tile<T>(source, tile, shared);
  const std::uint32_t c = tile.col + 8 * (threadIdx.x % 16);
#pragma unroll 1
  for (std::uint32_t k = 0; k < kRowsOfThread; ++k) {
    const std::uint32_t row = row_of_tile(k);
    float y[8];
    read_tile(source, shared, row, c, y);
    encode_piece<BlockShape::WithinRow>(view, tensor, tile.row + row, c, y);
  }
}

/// amax of a transposed operand under a transform; without one x can be read as it stands.
template <class T>
__global__ void __launch_bounds__(kThreads)
    tiles_amax_kernel(const __grid_constant__ SourceView source, FastDivide tiles, std::int32_t* amax) {
  __shared__ float shared[kTileRows * kStride];
  const Tile tile(tiles);
  load_tile<T>(source, tile, shared);
  const std::uint32_t c = tile.col + 8 * (threadIdx.x % 16);
  std::int32_t most = 0;
#pragma unroll 1
  for (std::uint32_t k = 0; k < kRowsOfThread; ++k) {
    float y[8];
    read_tile(source, shared, row_of_tile(k), c, y);
#pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, magnitude_bits(y[i]));
  }
  most = __reduce_max_sync(0xFFFF'FFFFu, most);
  if (threadIdx.x % 32 == 0) atomicMax(amax, most);
}

}  // namespace

bool fits_tiles(const QuantSpec& spec) {
  return spec.transposed && fits_blocks(spec) && !spec.clamp.enabled() && spec.granularity.cols <= kWidest &&
         spec.hadamard.group <= kWidest && spec.nvfp4.outer <= kWidest &&
         (spec.rounding != Rounding::Eden || spec.eden_group <= kWidest);
}

void encode_tiles(const Job& job) {
  const std::int64_t columns = (job.cols() + kTileCols - 1) / kTileCols;
  const FastDivide tiles(columns);
  const unsigned blocks = blocks_for((job.rows() + kTileRows - 1) / kTileRows * columns, 1);
  BlocksView view = blocks_view(job);
  dispatch_float(job.dtype, [&]<class T>(T*) {
    if (job.q.device_scale.defined()) {
      auto* amax = job.scratch<std::int32_t>(1);
      if (job.rotated()) {
        fill_zero_async(amax, sizeof(std::int32_t));
        tiles_amax_kernel<T><<<blocks, kThreads, 0, cuda::stream()>>>(job.source, tiles, amax);
        cuda::launched("tiles_amax_kernel");
      } else {
        tensor_amax(job, amax);
      }
      view.tensor_amax = amax;
      view.device_scale = job.q.device_scale.data<float>();
    }
    encode_tiles_kernel<T><<<blocks, kThreads, 0, cuda::stream()>>>(job.source, view, tiles);
    cuda::launched("encode_tiles_kernel");
  });
}

}  // namespace nibble::quant_cuda
