// Codes, scales and masks of a matrix whose rows several ranks have quantised, put together on all of them.
//
//   as it stands   codes [N, bytes of K]      rank after rank: where they arrive is where they stay
//   transposed     codes [K, bytes of N]      rank after rank [K, bytes of a piece], then set side by side
#pragma once

#include <array>

#include "nibble/dist/communicator.h"
#include "nibble/dist/row_pieces.h"
#include "nibble/quant/qtensor.h"

namespace nibble {

class RowGather {
 public:
  /// Bytes that each rank hands to every other one.
  static std::int64_t piece_bytes(const QuantSpec& spec, const RowPieces& pieces, std::int64_t cols);

  RowGather() = default;
  /// `own` is quantise(this rank's rows of a matrix [pieces.rows(), cols], spec); a rank without rows hands the result
  /// of some rows of zeros, of which only the scales that all rows share count. Memory is taken from `arena`, and
  /// `own` is done with when this returns (on a GPU: in the order of its work).
  RowGather(const QTensor& own, const QuantSpec& spec, const RowPieces& pieces, std::int64_t cols,
            Communicator& communicator, Arena& arena);

  /// quantise(the matrix, spec), from the same arena; once.
  QTensor finish(Arena& arena);

 private:
  struct Part {
    Tensor QTensor::*member = nullptr;
    Tensor room;            ///< [ranks * rows of a piece, columns of a piece]
    std::int64_t rows = 0;  ///< of the whole
    std::int64_t cols = 0;
    Pending arrival;
  };
  QTensor whole_;
  bool transposed_ = false;
  int ranks_ = 1;
  std::vector<Part> parts_;
};

/// Rows of W itself, in the order of ranks, on all of them: F32, or rounded to BF16.
class ValueGather {
 public:
  ValueGather() = default;
  ValueGather(const Tensor& own, DType dtype, const RowPieces& pieces, Communicator& communicator, Arena& arena);
  /// [pieces.rows(), K]
  Tensor finish();

 private:
  Tensor room_;
  std::int64_t rows_ = 0;
  Pending arrival_;
};

}  // namespace nibble
