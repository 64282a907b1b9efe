// A number as the sum of a BF16 number, which tensor cores multiply, and what that leaves.
#pragma once

#include "nibble/numerics/bf16.h"

namespace nibble::cuda {

/// v = high + low, exactly.
struct Parts {
  bf16 high;  ///< finite
  float low;  ///< 0 where v is a BF16 number; |low| <= 2^-8 |v| unless v lies beyond BF16's range
};

/// high is v to nearest even; 0 where that would not be finite.
NIBBLE_FN Parts parts_of(float v) {
  const float nearest = bf16_round(v);
  if (!float_is_finite(nearest)) return {bf16{}, v};
  return {bf16_encode(v), v - nearest};
}

}  // namespace nibble::cuda
