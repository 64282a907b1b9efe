// A tensor of a run's state, as checkpoints write and read it: whole, or the rows of it that this rank has.
//
//   whole      shape [N, ...]      |------------------------------------------------|
//   this rank  rows  [n, ...]                      |--------------|
//                                                  first_row      first_row + n
//
// Vectors and scalars are always whole: they are small, and every rank has them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "nibble/tensor/tensor.h"

namespace nibble {

struct StateTensor {
  std::string name;
  std::vector<std::int64_t> shape;  ///< of the whole tensor
  std::int64_t first_row = 0;       ///< of the whole tensor, where `rows` begins
  Tensor rows;                      ///< shape [n, ...], the rest of the dimensions as in `shape`; n may be 0

  /// Whether this rank has all of it.
  bool whole() const { return std::ranges::equal(rows.shape(), shape); }
  /// A tensor that every rank has.
  static StateTensor of(std::string name, const Tensor& tensor) {
    return {std::move(name), {tensor.shape().begin(), tensor.shape().end()}, 0, tensor};
  }
};

}  // namespace nibble
