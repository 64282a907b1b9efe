// What the clamp cuts off, gathered row by row into a CSR matrix.
#pragma once

#include <vector>

#include "nibble/quant/cpu/clamp.h"

namespace nibble::quant_cpu {

/// Rows are written in any order, each into a slot of its own, as the row starts of the CSR matrix are not known
/// yet; `finish` closes the gaps.
class ResidualRows {
 public:
  /// Keeps nothing.
  ResidualRows() = default;
  /// The result's arrays come from `arena` and hold `capacity` entries.
  ResidualRows(std::int64_t rows, std::int64_t cols, std::int64_t capacity, Arena& arena);

  bool enabled() const { return residual_.defined(); }
  /// Takes the slots, `per_row` entries each, from `scratch`; they must live until `finish`.
  void open(std::int64_t per_row, Arena& scratch);
  /// Keeps y[c] - clamped[c] for each c whose bit of `outside` is set, where the difference is not zero. Threads may
  /// write different rows at once. `found` is room for cols + 1 numbers.
  void write(std::int64_t r, const float* y, const float* clamped, const std::uint64_t* outside, std::int32_t* found);
  void write(std::int64_t r, const std::uint16_t* y, const std::uint16_t* clamped, const std::uint64_t* outside,
             std::int32_t* found);
  CsrMatrix finish();

 private:
  template <class Difference>
  void write_row(std::int64_t r, const std::uint64_t* outside, std::int32_t* found, Difference difference);

  CsrMatrix residual_;
  std::int64_t per_row_ = 0;
  Tensor slot_col_;
  Tensor slot_value_;
  std::vector<std::int32_t> count_;
};

}  // namespace nibble::quant_cpu
