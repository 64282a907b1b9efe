// How a thread block lies over a transposed operand, and the way of its codes into y: what the passes of columns.cu and
// requantize.cu share. A block takes 128 rows by 64 columns of x, a thread sixteen rows by two columns: pieces of two
// rows of y.
#pragma once

#include "nibble/quant/cuda/piece.cuh"

namespace nibble::quant_cuda {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileRows = 128;  ///< of x
inline constexpr int kTileCols = 64;

/// Where a thread's pieces lie: columns [c, c + 16) of rows r and r + 1 of y.
struct Place {
  std::uint32_t r = 0;
  std::uint32_t c = 0;
  /// In tile `tile`, of which `tiles` lie across, with `lanes` pieces of a row of y in consecutive lanes.
  __device__ __forceinline__ Place(FastDivide tiles, std::uint32_t lanes, std::uint32_t tile = blockIdx.x) {
    const std::uint32_t band = tiles.quotient(tile);
    const std::uint32_t warp = threadIdx.x / 32;
    const std::uint32_t lane = threadIdx.x % 32;
    const std::uint32_t pairs = 32 / lanes;  // of a warp
    r = kTileCols * (tile - band * tiles.divisor()) + 2 * (warp % lanes * pairs + lane / lanes);
    c = kTileRows * band + kPiece * (warp / lanes * lanes + lane % lanes);
  }
};

/// The tiles of an x.
struct Tiles {
  FastDivide across;
  std::int64_t count;
  explicit Tiles(const SourceView& x)
      : across((x.cols + kTileCols - 1) / kTileCols),
        count(std::int64_t{across.divisor()} * ((x.rows + kTileRows - 1) / kTileRows)) {}
};

/// Two columns of x at once, as they are read.
template <class T>
struct Pair;
template <>
struct Pair<bf16> {
  using Raw = std::uint32_t;
  static __device__ __forceinline__ float value(Raw raw, std::uint32_t k) {
    return bits_float(k == 0 ? raw << 16 : raw & 0xFFFF'0000u);
  }
};
template <>
struct Pair<float> {
  using Raw = float2;
  static __device__ __forceinline__ float value(Raw raw, std::uint32_t k) { return k == 0 ? raw.x : raw.y; }
};

/// Bytes of a thread block's tile of y, on their way through shared memory: a warp's own stores would touch a cache
/// line a lane. A row of the tile is eight pieces of 16 or 32 bytes; their order within the row, mixed by its number,
/// spreads what neighbouring lanes store over the banks.
class TileStore {
 public:
  /// `tile` has 64 rows of 8 x piece_bytes.
  __device__ __forceinline__ TileStore(uint4* tile, int piece_bytes) : tile_(tile), chunks_(piece_bytes / 2) {}

  /// Chunk `chunk` of 16 bytes of a row.
  __device__ __forceinline__ uint4& at(std::uint32_t row, std::uint32_t chunk) const {
    return tile_[row * chunks_ + (chunk ^ (row >> 1 & 7u))];
  }

  /// All of it to row `r` on of y, from byte `begin` of the rows on; y has `rows` rows of `row_bytes`.
  __device__ __forceinline__ void write(std::uint8_t* y, std::uint32_t r, std::uint32_t rows, std::int64_t begin,
                                        std::int64_t row_bytes) const {
    for (std::uint32_t i = threadIdx.x; i < kTileCols * chunks_; i += kTileThreads) {
      const std::uint32_t row = i / chunks_;
      const std::uint32_t chunk = i % chunks_;
      const std::int64_t byte = begin + 16 * static_cast<std::int64_t>(chunk);
      if (r + row >= rows || byte >= row_bytes) continue;
      *reinterpret_cast<uint4*>(y + static_cast<std::int64_t>(r + row) * row_bytes + byte) = at(row, chunk);
    }
  }

 private:
  uint4* tile_;
  std::uint32_t chunks_;
};

/// Chunks of the tile that a case stages for Form::BF16.
template <int kCase>
inline constexpr int kStagedChunks = kCase == kAnyCase ? 1 : kTileCols * 16;

/// Scales and codes of a thread's two pieces; values(k, y) gives piece k, under its transform. `tile` has
/// kStagedChunks<kCase>. All threads of the block take part.
template <int kCase, class Values>
__device__ __forceinline__ void encode_tile(const BlocksView& view, const TensorScale& tensor, const Place& at,
                                            uint4* tile, const Values& values) {
  const BlocksView fixed = in_case<kCase>(view);
  const bool staged = kCase != kAnyCase && view.codes.form == Form::BF16;
  const TileStore store(tile, 32);
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    float y[kPiece];
    values(k, y);
    encode_piece<BlockShape::WithinRow>(fixed, tensor, at.r + k, at.c, y,
                                        [&](const std::uint32_t(&words)[4], std::uint8_t scale) {
                                          if (!staged) return store_piece(fixed, at.r + k, at.c, words, scale);
                                          uint4 pairs[2];
                                          bf16_values(words, stored_value(fixed.scale, scale), pairs);
                                          const std::uint32_t row = (at.r + k) % kTileCols;
                                          const std::uint32_t chunk = at.c % kTileRows / 8;
                                          store.at(row, chunk) = pairs[0];
                                          store.at(row, chunk + 1) = pairs[1];
                                        });
  }
  if (!staged) return;
  __syncthreads();
  store.write(view.codes.codes, at.r / kTileCols * kTileCols, view.rows, 2 * std::int64_t{at.c / kTileRows * kTileRows},
              view.codes.row_bytes);
}

}  // namespace nibble::quant_cuda
