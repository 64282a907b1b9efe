// BF16 rows under a scale for each block of 16 or 32 columns straight to packed E2M1: no row is widened in memory.
#pragma once

#include "nibble/quant/cpu/scales.h"

namespace nibble::quant_cpu {

/// amax_of_blocks of the values whose BF16 bits are x[0, n).
void amax_of_bf16_blocks(const std::uint16_t* x, std::int64_t n, std::int64_t block, AmaxBits* amax);
/// packed[0, ceil(n / 2)) = RND(x * multiplier[block of x]), ties to even. `block` is 16 or 32.
void encode_e2m1_blocks(const std::uint16_t* x, const float* multiplier, std::int64_t block, std::int64_t n,
                        std::uint8_t* packed);

}  // namespace nibble::quant_cpu
