// MS-EDEN's corrected block scales (Panferov et al. 2026, "Quartet II", section 4), a row at a time.
#pragma once

#include <cstdint>

namespace nibble::quant_cpu {

/// For a row of n columns in blocks of 16 under UE4M3 scales, y the row in units of the outer scale's operand,
///
///   z = y * multiplier[block],  q = decode(codes)
///   S = sum z^2 / sum z q       over each `group` of columns (a multiple of 16; the last may be short);
///                               1 where the denominator is 0 or S is not finite
///   scale_out[j] = e4m3_encode_stochastic(decode(scale_in[j]) * S, words[j] >> 8)
///
/// codes: E2M1, one a byte. multiplier, scale_in, words, scale_out: one a block, the last of which may be short.
/// scale_out may be scale_in. Sums in F32: lane l of sixteen adds the columns l, l + 16, ... of the group, then the
/// lanes are added by halves.
void eden_scales(const float* y, const float* multiplier, const std::uint8_t* codes, std::int64_t n, std::int64_t group,
                 const std::uint8_t* scale_in, const std::uint32_t* words, std::uint8_t* scale_out);

}  // namespace nibble::quant_cpu
