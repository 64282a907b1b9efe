#include "nibble/ops/code_transpose.h"
#include "nibble/ops/cuda/native_gemm.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

// Both kernels are bound by memory: half a byte of codes an element read and written, and an eighth of that of scales.

namespace nibble::cuda {
namespace {

/// The tiles of ops/scale_layout.h. A thread writes 16 bytes: four rows, 32 apart, of one tile. Neighbours along x take
/// neighbouring tiles, whose scales lie beside each other in memory, neighbours along y the 16 bytes beside.
__global__ __launch_bounds__(256) void write_scale_tiles(StoredScales scales, std::int64_t across, uint4* out) {
  const std::int64_t tile = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (tile >= across) return;
  const std::int64_t piece = (std::int64_t{blockIdx.y} * across + tile) * (kScaleTileBytes / 16) + threadIdx.y;
  out[piece] = {tiled_scale_word(scales, 4 * piece), tiled_scale_word(scales, 4 * piece + 1),
                tiled_scale_word(scales, 4 * piece + 2), tiled_scale_word(scales, 4 * piece + 3)};
}

constexpr int kTile = 128;         ///< codes of a tile both ways
constexpr int kWords = kTile / 8;  ///< of a row of it
constexpr int kPieces = kTile / 2 / 16;

/// Where a word of a row of the tile lies in shared memory: shifted with the row's group of eight, so that the threads
/// that put down the rows of different groups meet different banks.
__device__ int place(int row, int word) { return row * kWords + (word ^ (row / 8)); }

/// out[cols, rows / 2] from codes[rows, cols / 2]; cols is a multiple of 8, rows of 32. A thread takes a square of 8 x
/// 8 codes, then pieces of 16 bytes of the transposed rows.
__global__ __launch_bounds__(256) void transpose_packed(const std::uint8_t* codes, std::int64_t rows, std::int64_t cols,
                                                        std::uint8_t* out) {
  __shared__ std::uint32_t tile[kTile * kWords];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first_col = std::int64_t{blockIdx.x} * kTile;
  const std::int64_t first_row = std::int64_t{blockIdx.y} * kTile;
  {
    const int across = thread % kWords;
    const int down = thread / kWords;
    const std::int64_t col = first_col + 8 * across;
    const std::int64_t row = first_row + 8 * down;
    std::uint32_t square[8] = {};
    if (col < cols && row < rows) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        square[i] = *reinterpret_cast<const std::uint32_t*>(codes + (row + i) * (cols / 2) + col / 2);
      }
    }
    transpose_codes(square);
#pragma unroll
    for (int i = 0; i < 8; ++i) tile[place(8 * across + i, down)] = square[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kTile * kPieces / 256; ++i) {
    const int row = (thread + 256 * i) / kPieces;
    const int word = thread % kPieces * 4;
    const std::int64_t at = first_row / 2 + 4 * word;
    if (first_col + row >= cols || at >= rows / 2) continue;
    *reinterpret_cast<uint4*>(out + (first_col + row) * (rows / 2) + at) = {
        tile[place(row, word)], tile[place(row, word + 1)], tile[place(row, word + 2)], tile[place(row, word + 3)]};
  }
}

}  // namespace

NativeOperand native_operand(const GemmOperand& x, NativeFormat format, Arena& scratch) {
  const QTensor& q = x.matrix;
  require(q.codes.device() == Device::Cuda && q.scales.device() == Device::Cuda,
          "gemm: the operand {} is not on the GPU", to_string(q.codes));
  NativeOperand out;
  const StoredScales scales = native_scales(x, format);
  const std::int64_t across = scale_tiles_across(scales.cols);
  const std::int64_t down = scale_tiles_down(scales.rows);
  const std::int64_t k_tiles = (inner_extent(x) + kTile - 1) / kTile;
  require(down <= 65535 && k_tiles <= 65535, "gemm: an operand of {} x {}", q.rows, q.cols);
  const Tensor tiles = scratch.allocate(DType::U8, {scale_layout_bytes(scales.rows, scales.cols)});
  require(reinterpret_cast<std::uintptr_t>(tiles.raw()) % 16 == 0, "gemm: scratch at an odd address");
  const dim3 grid(static_cast<unsigned>((across + 7) / 8), static_cast<unsigned>(down));
  write_scale_tiles<<<grid, dim3(8, 32), 0, stream()>>>(scales, across, static_cast<uint4*>(tiles.raw()));
  launched("write_scale_tiles");
  out.scales = tiles.raw();

  out.codes = q.codes.raw();
  if (!x.transposed) return out;
  const Tensor codes = scratch.allocate(DType::U8, {q.cols, q.rows / 2});
  const dim3 tiles_of_codes(static_cast<unsigned>((q.cols + kTile - 1) / kTile), static_cast<unsigned>(k_tiles));
  transpose_packed<<<tiles_of_codes, 256, 0, stream()>>>(static_cast<const std::uint8_t*>(q.codes.raw()), q.rows,
                                                         q.cols, static_cast<std::uint8_t*>(codes.raw()));
  launched("transpose_packed");
  out.codes = codes.raw();
  return out;
}

}  // namespace nibble::cuda
