// The kernel of block-scaled products: a tile of six rows of A by 32 columns of B, integer dots block by block.
//
//   C[m, n] += sum over blocks b, ascending, of  (float(dot[m, n, b]) * scale_a[m, b]) * scale_b[n, b]
//
// dot is the exact int32 sum of the L = 16 or 32 products of a block of the contraction; the rest is F32, every
// operation rounded once and none fused, so every kernel gives the same bits.
//
// A is unsigned: every integer plus a constant `offset`, rows as they stand. B is signed and packed, its columns
// ("lanes") side by side in groups of four elements of the contraction, each block followed by what undoes the offset
// and by the scales:
//
//   block b   k, k+1, k+2, k+3 of lane 0 | of lane 1 | ... | of lane 31     128 bytes, L / 4 times
//             -offset * sum of the block, int32 of lanes 0 ... 31           128 bytes
//             scale_b, F32 of lanes 0 ... 31                                128 bytes
#pragma once

#include <cstdint>
#include <span>

namespace nibble::cpu {

inline constexpr std::int64_t kBlockRows = 6;
inline constexpr std::int64_t kBlockLanes = 32;
inline constexpr std::int64_t block_bytes(std::int64_t length) { return (length + 8) * kBlockLanes; }
/// Where the second and third part of a packed block begin.
inline constexpr std::int64_t block_compensation_at(std::int64_t length) { return length * kBlockLanes; }
inline constexpr std::int64_t block_scales_at(std::int64_t length) { return (length + 4) * kBlockLanes; }

/// The largest |x * y| of integers that all kernels sum exactly: an int16 lane takes the products of a block of 32 by
/// twos, (2 x) * y with the offset, eight times.
inline constexpr int kMaxBlockProduct = 32767 / (2 * 2 * 8);

/// One tile: all pointers at its first row, lane and block.
struct BlockTile {
  const std::uint8_t* a;  ///< [6, blocks * length]; what lies beyond the contraction meets zeros of B
  std::int64_t a_stride;
  const float* a_scales;  ///< [6, blocks]
  std::int64_t a_scale_stride;
  const std::uint8_t* b;  ///< packed blocks, aligned to 64 bytes
  float* c;               ///< [6, 32], rows aligned to 64 bytes
  std::int64_t c_stride;
  std::int64_t blocks;
  bool overwrite;  ///< C starts at 0 instead of what is there
};

struct BlockDotKernel {
  const char* name;
  void (*dot16)(const BlockTile& tile);
  void (*dot32)(const BlockTile& tile);
};

/// Kernels that this CPU runs, fastest first; the last one runs everywhere.
std::span<const BlockDotKernel> block_dot_kernels();

}  // namespace nibble::cpu
