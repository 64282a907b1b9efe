// Which rows of a matrix each rank has, where ranks share what belongs to it: its optimizer state, the sum of its
// gradient, its values, its part of a checkpoint.
//
//   rows          |-------- piece --------|-------- piece --------|---- the rest ----|. . . .|
//   rank          0                       1                       2                    padding
//
// Pieces are equal, but for the last ones, which may be shorter or empty; a matrix with room for R * piece rows can be
// gathered and scattered without being rearranged. Borders are multiples of 128 rows where that wastes next to nothing,
// of 16 always: blocks of 16, 32 or 128 along a column, tiles of a quantised weight and Hadamard transforms stay whole
// then. More ranks than a matrix has times 16 rows would share little but padding.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nibble {

/// Rows [begin, end).
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  friend bool operator==(const RowRange&, const RowRange&) = default;
};

class RowPieces {
 public:
  /// Borders are multiples of this: of `rows` rows at most rows / kBorder ranks have some.
  static constexpr std::int64_t kBorder = 16;

  /// Of a matrix with `rows` rows, which `ranks` ranks share.
  RowPieces(std::int64_t rows, int ranks) : rows_(rows), ranks_(ranks) {
    const std::int64_t even = (rows + ranks - 1) / ranks;
    std::int64_t border = kBorder;
    for (const std::int64_t wider : {32, 64, 128}) {
      if (rounded(even, wider) - even <= even / 64) border = wider;
    }
    piece_ = ranks == 1 ? rows : rounded(even, border);
  }

  std::int64_t rows() const { return rows_; }
  int ranks() const { return ranks_; }
  /// Rows of a whole piece: what every rank sends and receives.
  std::int64_t piece() const { return piece_; }
  /// Rows of all pieces with the padding.
  std::int64_t padded() const { return ranks_ * piece_; }
  /// The rows of the matrix that a rank has; may be none.
  RowRange of(int rank) const { return {std::min(rows_, rank * piece_), std::min(rows_, (rank + 1) * piece_)}; }

 private:
  static std::int64_t rounded(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

  std::int64_t rows_;
  std::int64_t piece_;
  int ranks_;
};

}  // namespace nibble
