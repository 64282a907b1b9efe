// BF16 rows under one scale straight to packed E2M1, in 16-bit lanes.
//
// RN(|x| * m) grows with |x|, so each midpoint of the E2M1 grid becomes a limit on the 16 bits of x, found once a
// row; no element is ever widened to a float, and the codes are those of the float path.
#pragma once

#include <array>

#include "nibble/numerics/rounding.h"

namespace nibble::quant_cpu {

/// limit[i]: the least sign-interleaved magnitude 2 |x| + (x >= 0), |x| read as an integer, whose code is above i.
struct Bf16Limits {
  std::array<std::uint16_t, 7> limit;
  bool drop_sign_of_zero;
};

/// For codes RND(x * multiplier), round to nearest under the tie rule of `rounding`.
Bf16Limits bf16_limits(float multiplier, Rounding rounding);
/// packed[0, ceil(n / 2)) from the BF16 bits x[0, n).
void encode_e2m1_packed(const std::uint16_t* x, const Bf16Limits& limits, std::int64_t n, std::uint8_t* packed);

/// out[i] = the BF16 bits of key i bounded to [low, high] (clamp.h); bit i of `outside` (64 to a word, the rest of the
/// last word 0) says whether that changed it. One word more may be overwritten.
void clamp_bf16_keys(const std::int16_t* keys, std::int16_t low, std::int16_t high, std::int64_t n, std::uint16_t* out,
                     std::uint64_t* outside);

}  // namespace nibble::quant_cpu
