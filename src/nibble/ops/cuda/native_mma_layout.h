// Which element lies where in the block-scaled product of our own (native_mma.cu): shared by the kernel and by the test
// that plays the kernel on a CPU.
//
// A block of threads computes 128 x 128 of C with eight warps, two along M and four along N. The rows of a warp are
// not neighbours but 32 apart from tile to tile, as the scales of rows 32 apart are neighbours (scale_layout.h): 16
// bytes hold the scale words of all four tiles of A, or of B, that a lane needs.
//
//   warp (wm, wn)    rows of A     32 i + 16 wm + 0..15,  i = 0..3     four tiles of 16 rows
//                    rows of B     32 j +  8 wn + 0..7,   j = 0..3     four tiles of  8 rows
//
// The contraction goes by 128 codes, 64 bytes of a row; a step of the tensor core takes 64 codes, 32 bytes. In shared
// memory a row is four pieces of 16 bytes, which change places with the row, so that the eight rows that `ldmatrix`
// reads at a time lie in different banks.
//
// Fragments (PTX ISA, mma.m16n8k64 with .e2m1, and "Block Scaling for mma.sync"), g = lane / 4, t = lane % 4: eight
// codes a register, at k = 8 t + 0..7 of 32, which is how `ldmatrix` hands out rows of 16 bytes:
//
//   A   register 0: row g, k 0..31    1: row g + 8, k 0..31    2: row g, k 32..63    3: row g + 8, k 32..63
//   B   register 0: row g, k 0..31    1: row g, k 32..63
//   C   0, 1: row g, columns 2 t, 2 t + 1      2, 3: row g + 8
//   scales, thread-id 0: of A's row g + 8 t from the lanes with t = 0 and 1, of B's row g from those with t = 0; the
//   bytes from byte-id on are those of ascending blocks of the 64 codes: four of UE4M3, two of E8M0.
#pragma once

#include "nibble/numerics/portable.h"

namespace nibble::native_mma {

inline constexpr int kTile = 128;  ///< rows of A, and of B, of a block of threads
inline constexpr int kWarps = 8;   ///< 2 x 4
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kTilesOfWarp = 4;  ///< of A, and of B
inline constexpr int kRowBytes = 64;    ///< of a stage: 128 codes
inline constexpr int kPieces = 4;       ///< of 16 bytes
inline constexpr int kSteps = 2;        ///< of 64 codes
inline constexpr int kOperandBytes = kTile * kRowBytes;

/// Where a piece of a row lies in the operand's part of shared memory, in bytes.
NIBBLE_FN int piece_place(int row, int piece) { return row * kRowBytes + (piece ^ (row / 2 % 4)) * 16; }

NIBBLE_FN int warp_row_a(int warp, int tile) { return 32 * tile + 16 * (warp % 2); }
NIBBLE_FN int warp_row_b(int warp, int tile) { return 32 * tile + 8 * (warp / 2); }

/// The bytes that a lane names to `ldmatrix` of four matrices of 8 rows x 16 bytes; matrix lane / 8 goes to that
/// register. For A: the four registers of a tile. For B: the two registers of `tile` and of the next.
NIBBLE_FN int a_address(int warp, int lane, int tile, int step) {
  const int matrix = lane / 8;
  return piece_place(warp_row_a(warp, tile) + lane % 8 + 8 * (matrix % 2), 2 * step + matrix / 2);
}
NIBBLE_FN int b_address(int warp, int lane, int tile, int step) {
  const int matrix = lane / 8;
  return piece_place(warp_row_b(warp, tile + matrix / 2) + lane % 8, 2 * step + matrix % 2);
}

/// The row, below 32, whose 16 bytes of a tile of scales hold the words of a lane: word i is that of tile i.
NIBBLE_FN int a_scale_row(int warp, int lane) { return warp_row_a(warp, 0) + lane / 4 + 8 * (lane % 2); }
NIBBLE_FN int b_scale_row(int warp, int lane) { return warp_row_b(warp, 0) + lane / 4; }

/// Row and column, within 128 x 128, of the accumulators 2 * half and 2 * half + 1 of tiles i of A and j of B.
NIBBLE_FN int c_row(int warp, int lane, int i, int half) { return warp_row_a(warp, i) + lane / 4 + 8 * half; }
NIBBLE_FN int c_col(int warp, int lane, int j) { return warp_row_b(warp, j) + lane % 4 * 2; }

}  // namespace nibble::native_mma
