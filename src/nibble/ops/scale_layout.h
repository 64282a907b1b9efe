// Where block scales lie in memory for Blackwell's block-scaled products: the tiles of 128 x 4 that the tensor cores
// and cuBLASLt read. Host and device run the same functions, so what a kernel writes is what a CPU can check.
//
//   scales[rows, cols]      rows along C, cols = blocks of 16 (UE4M3) or 32 (E8M0) along the contraction, a byte each
//   tiles                   128 rows x 4 columns = 512 bytes; tiles row-major, `across` = ceil(cols / 4) side by side
//   within a tile           a word of four columns for each row; rows 32 apart share 16 bytes:
//
//     byte   0..3     4..7     8..11    12..15   | 16..19   20..23  ...
//     row    0        32       64       96       | 1        33      ...      columns 0 1 2 3 in each
//
//   offset(row, col) = ((row / 128) * across + col / 4) * 512 + (row % 32) * 16 + (row / 32 % 4) * 4 + col % 4
//
// Places beyond the matrix hold zeros: rows are filled up to 128, columns to 4. Sources: NVIDIA, cuBLAS 13 manual,
// "1D Block Scaling Factors Layout" (16- and 32-element 1D block scaling for FP8 and FP4); CUTLASS, Transformer Engine
// and PyTorch use the same formula.
#pragma once

#include <cstdint>

#include "nibble/numerics/portable.h"

namespace nibble {

inline constexpr std::int64_t kScaleTileRows = 128;
inline constexpr std::int64_t kScaleTileCols = 4;
inline constexpr std::int64_t kScaleTileBytes = kScaleTileRows * kScaleTileCols;

/// Tiles that lie side by side for so many columns, or below each other for so many rows.
NIBBLE_FN std::int64_t scale_tiles_across(std::int64_t cols) { return (cols + kScaleTileCols - 1) / kScaleTileCols; }
NIBBLE_FN std::int64_t scale_tiles_down(std::int64_t rows) { return (rows + kScaleTileRows - 1) / kScaleTileRows; }
/// Bytes of all tiles, padding included.
NIBBLE_FN std::int64_t scale_layout_bytes(std::int64_t rows, std::int64_t cols) {
  return scale_tiles_down(rows) * scale_tiles_across(cols) * kScaleTileBytes;
}

/// Within a tile: the byte of column 0 of a row; those of the other columns follow it.
NIBBLE_FN int scale_word_in_tile(int row) { return (row % 32) * 16 + (row / 32 % 4) * 4; }

NIBBLE_FN std::int64_t scale_offset(std::int64_t row, std::int64_t col, std::int64_t across) {
  const std::int64_t tile = row / kScaleTileRows * across + col / kScaleTileCols;
  return tile * kScaleTileBytes + scale_word_in_tile(static_cast<int>(row % kScaleTileRows)) + col % kScaleTileCols;
}

struct ScalePosition {
  std::int64_t row;
  std::int64_t col;
};
/// The inverse of scale_offset.
NIBBLE_FN ScalePosition scale_position(std::int64_t offset, std::int64_t across) {
  const std::int64_t tile = offset / kScaleTileBytes;
  const std::int64_t within = offset % kScaleTileBytes;
  return {tile / across * kScaleTileRows + within % 16 / 4 * 32 + within / 16,
          tile % across * kScaleTileCols + within % 4};
}

/// The scales of an operand as they are stored, seen as a matrix of one scale for each row along C and each block of
/// the contraction. A stored scale may serve several rows (16 x 16 tiles) or several blocks.
struct StoredScales {
  const std::uint8_t* bytes = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t rows_per_scale = 1;
  std::int64_t cols_per_scale = 1;
  std::int64_t row_stride = 0;  ///< from a stored scale to the next along C
  std::int64_t col_stride = 1;  ///< and along the contraction

  NIBBLE_FN std::uint8_t at(std::int64_t row, std::int64_t col) const {
    return bytes[row / rows_per_scale * row_stride + col / cols_per_scale * col_stride];
  }
};

/// Four bytes of the tiled layout, the first in the lowest bits: those at 4 * word and on.
NIBBLE_FN std::uint32_t tiled_scale_word(const StoredScales& scales, std::int64_t word) {
  const ScalePosition first = scale_position(4 * word, scale_tiles_across(scales.cols));
  std::uint32_t four = 0;
  if (first.row >= scales.rows) return four;
  for (int i = 0; i < 4; ++i) {
    if (first.col + i < scales.cols) four |= std::uint32_t{scales.at(first.row, first.col + i)} << (8 * i);
  }
  return four;
}

}  // namespace nibble
