// Rows of floats to element codes, one code a byte; and codes to packed nibbles. The same bits as the scalar
// definitions in numerics/, in forms without branches, which compilers turn into vector code.
#pragma once

#include "nibble/quant/cpu/multiplier.h"
#include "nibble/quant/quantize.h"

namespace nibble::quant_cpu {

/// Round to nearest under the tie rule of `rounding` (not a stochastic one).
void encode_e2m1(const float* y, Multiplier multiplier, Rounding rounding, std::int64_t n, std::uint8_t* codes);
/// Round to nearest even, saturating; NaN gives NaN.
void encode_e4m3(const float* y, Multiplier multiplier, std::int64_t n, std::uint8_t* codes);
void encode_e5m2(const float* y, Multiplier multiplier, std::int64_t n, std::uint8_t* codes);
void encode_bf16(const float* y, std::int64_t n, bf16* codes);

/// Element 2j to the low, 2j + 1 to the high nibble of packed[j]; an odd last nibble is 0.
void pack_nibbles(const std::uint8_t* codes, std::int64_t n, std::uint8_t* packed);
/// Bit i % 8 of bits[i / 8] from flags[i], which is 0 or 1; the rest of the last byte is 0.
void pack_bits(const std::uint8_t* flags, std::int64_t n, std::uint8_t* bits);

}  // namespace nibble::quant_cpu
