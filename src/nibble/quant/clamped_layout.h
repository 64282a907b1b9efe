// How a GPU's thread blocks take rows of BF16 under quantile bounds of their own (quant/cuda/clamped_rows.cuh): host
// code, as plans of memory ask for it, too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "nibble/quant/cpu/clamp.h"
#include "nibble/quant/quant_spec.h"

namespace nibble::quant_cuda {

inline constexpr int kMostWarps = 12;
inline constexpr int kMostLanes = 32 * kMostWarps;
inline constexpr int kMostPieces = 8;
inline constexpr int kPiecesOfMade = 4;            ///< of a row that is made in registers, which takes more of them
inline constexpr std::int64_t kLeastCols = 256;    // every lane of a warp has a piece
inline constexpr std::int64_t kMostCols = 16'384;  // bits of the marks

/// A block takes a row, pieces of eight columns a thread.
struct ClampedLayout {
  int pieces = 0;  ///< of a thread; 0: no block takes such rows
  int lanes = 0;
  /// Of the ranks of the high and of the low bound, counted from that end of the row, for each warp.
  std::uint32_t share[2] = {};

  /// The most pieces a thread, up to so many, that leave the fewest idle. A warp has 64 groups, and the quantiles of
  /// more than half of them are no news of the row's.
  static ClampedLayout of(double alpha, std::int64_t cols, int most_pieces) {
    ClampedLayout best;
    if (cols < kLeastCols || cols > kMostCols || cols % 8 != 0) return best;
    const quant_cpu::QuantileIndex index = quant_cpu::quantile_index(alpha, cols);
    for (const int pieces : {8, 4}) {
      if (pieces > most_pieces) continue;
      const std::int64_t warps = (cols / 8 + pieces * 32 - 1) / (pieces * 32);
      const auto share_of = [&](std::int64_t rank) { return static_cast<std::uint32_t>((rank + warps - 1) / warps); };
      const std::uint32_t high = share_of(cols - index.high);
      const std::uint32_t low = share_of(index.low + 1);
      if (warps > kMostWarps || std::max(high, low) > 32) continue;
      if (best.pieces != 0 && 32 * warps * pieces >= std::int64_t{best.lanes} * best.pieces) continue;
      best = {pieces, static_cast<int>(32 * warps), {high, low}};
    }
    return best;
  }
};

/// Whether codes, scales and residual of rows of BF16 can be made in one pass, by what the spec says: rounding to
/// nearest, up or even, under one absmax scale a row.
inline bool clamps_in_one_pass(const QuantSpec& spec, std::int64_t cols, int most_pieces = kMostPieces) {
  return spec.element == ElementFormat::E2M1 && spec.clamp.enabled() && spec.clamp.per_row &&
         (spec.rounding == Rounding::NearestUp || spec.rounding == Rounding::NearestEven) &&
         (spec.scale == ScaleRule::Absmax || spec.scale == ScaleRule::AbsmaxPow2) &&
         spec.granularity == Granularity::per_row() && !spec.trust_mask && !spec.hadamard.enabled() &&
         ClampedLayout::of(spec.clamp.alpha, cols, most_pieces).pieces != 0;
}

}  // namespace nibble::quant_cuda
