// Matrix products of tiles that lie in cache, in float: the inner loops of attention.
//
// Tiles are row-major with a leading dimension (floats from row to row). Rows counts are multiples of kTileRows,
// column counts and leading dimensions multiples of kTileColumns: the owner of a tile pads it.
//
// An `upper` tile is upper triangular at the granularity of kTileRows x kTileRows squares: the squares below the
// diagonal are zero and are neither computed nor read. That is a causal tile with keys as rows, queries as columns:
//
//   key \ query  0..7 8..15 16..23
//        0..7  [  x     x     x   ]
//        8..15 [  .     x     x   ]
//       16..23 [  .     .     x   ]
//
// Each element of a result is one chain of multiply-adds in the order of k, so it does not depend on the vector
// length; it does on whether the machine has fused multiply-add.
#pragma once

#include <cstdint>

namespace nibble {

inline constexpr std::int64_t kTileRows = 8;
inline constexpr std::int64_t kTileColumns = 16;

/// Leading dimension for rows of `columns` floats: a multiple of a cache line (16 floats), and an odd one, so that
/// consecutive rows fall into different sets of the cache.
constexpr std::int64_t tile_stride(std::int64_t columns) {
  const std::int64_t lines = (columns + kTileColumns - 1) / kTileColumns;
  return (lines + (lines % 2 == 0 ? 1 : 0)) * kTileColumns;
}

struct Tile {
  float* data = nullptr;
  std::int64_t stride = 0;
};

/// C [m, n] = A [m, k] B [k, n]. `upper`: squares of C below the diagonal may be left as they are.
void tile_matmul(Tile a, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper);

/// C [m, n] += U [m, k] B [k, n].
void tile_matmul_add(Tile u, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper);

/// C [m, n] += U^T B, U [k, m], B [k, n].
void tile_matmul_add_transposed(Tile u, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper);

}  // namespace nibble
