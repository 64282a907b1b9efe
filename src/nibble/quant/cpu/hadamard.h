// The blockwise Hadamard transform of quant/hadamard.h on one row in place.
#pragma once

#include <array>

#include "nibble/quant/hadamard.h"

namespace nibble::quant_cpu {

/// One transform with its signs drawn: made once a tensor, then used by all threads.
class HadamardRow {
 public:
  static constexpr std::int64_t kMaxGroup = 256;

  /// `transform` must be enabled.
  HadamardRow(const Hadamard& transform, const RandomStream& signs);

  /// y[0, n) in place, n a multiple of the group.
  void forward(float* y, std::int64_t n) const;
  void inverse(float* y, std::int64_t n) const;

 private:
  /// What a row is multiplied by before and after the butterflies: a group's factors, repeated to fill 16.
  struct Factors {
    std::array<float, kMaxGroup> before;
    std::array<float, kMaxGroup> after;
  };

  std::int64_t group_;
  bool signs_last_;
  Factors signs_first_;  ///< s, 1 / sqrt(group)
  Factors mix_first_;    ///< 1, s / sqrt(group)
};

}  // namespace nibble::quant_cpu
