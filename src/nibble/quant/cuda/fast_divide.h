// Division of indices by a number that is the same for a whole launch.
#pragma once

#include <cstdint>

#include "nibble/numerics/portable.h"
#include "nibble/tensor/error.h"

namespace nibble::quant_cuda {

/// n / divisor for n < 2^31 by one multiplication (Granlund and Montgomery, "Division by invariant integers using
/// multiplication", 1994): with 2^l >= d the upper half of n * floor(2^32 (2^l - d) / d + 1), plus n, over 2^l.
class FastDivide {
 public:
  FastDivide() = default;
  explicit FastDivide(std::int64_t divisor) : divisor_(static_cast<std::uint32_t>(divisor)) {
    require(divisor > 0 && divisor < (std::int64_t{1} << 31), "a division by {}", divisor);
    while ((std::uint64_t{1} << shift_) < divisor_) ++shift_;
    multiplier_ = static_cast<std::uint32_t>((((std::uint64_t{1} << shift_) - divisor_) << 32) / divisor_ + 1);
  }

  NIBBLE_FN std::uint32_t divisor() const { return divisor_; }
  NIBBLE_FN std::uint32_t quotient(std::uint32_t n) const {
    const auto upper = static_cast<std::uint32_t>(std::uint64_t{multiplier_} * n >> 32);
    return (upper + n) >> shift_;
  }

 private:
  std::uint32_t divisor_ = 1;
  std::uint32_t multiplier_ = 1;
  std::uint32_t shift_ = 0;
};

}  // namespace nibble::quant_cuda
