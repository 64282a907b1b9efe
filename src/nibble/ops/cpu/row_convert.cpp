#include "nibble/ops/cpu/row_convert.h"

#include "nibble/tensor/simd.h"

namespace nibble {

NIBBLE_SIMD void load_row(const float* from, float scale, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = scale * from[i];
}
NIBBLE_SIMD void load_row(const bf16* from, float scale, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = scale * bf16_decode(from[i]);
}
NIBBLE_SIMD void store_row(const float* from, float scale, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = scale * from[i];
}
NIBBLE_SIMD void store_row(const float* from, float scale, bf16* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_encode(scale * from[i]);
}

}  // namespace nibble
