// Rows of floats to the four-bit codes beside plain E2M1 rounding (encode.h): Int4, E3M0, and E2M1 rounded towards a
// reference. One code a byte; the same bits as the scalar definitions in numerics/.
#pragma once

#include "nibble/quant/cpu/multiplier.h"
#include "nibble/quant/quantize.h"

namespace nibble::quant_cpu {

/// codes[i] = int4_encode<tie>(y * multiplier), the tie rule that of `rounding` (one of the Nearest rules).
void encode_int4(const float* y, Multiplier multiplier, Rounding rounding, std::int64_t n, std::uint8_t* codes);
/// codes[i] = e3m0_encode<tie>(y * multiplier, log_steps).
void encode_e3m0(const float* y, Multiplier multiplier, Rounding rounding, int log_steps, std::int64_t n,
                 std::uint8_t* codes);
/// codes[i] = e2m1_encode_reference(y * multiplier, reference * multiplier).
void encode_e2m1_reference(const float* y, const float* reference, Multiplier multiplier, std::int64_t n,
                           std::uint8_t* codes);

/// out[i] = value of the code, unscaled; two codes a byte, element 2j in the low nibble of packed[j].
void decode_int4(const std::uint8_t* packed, std::int64_t n, float* out);
void decode_e3m0(const std::uint8_t* packed, std::int64_t n, float* out);

}  // namespace nibble::quant_cpu
