#include "nibble/ops/cpu/partial_sums.h"

#include "nibble/tensor/simd.h"

namespace nibble::cpu {

NIBBLE_SIMD void add_floats(float* to, const float* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace nibble::cpu
