// Stochastic rounding to four bits, a row at a time: the random words of consecutive elements, and the encoders.
#pragma once

#include "nibble/quant/cpu/encode.h"

namespace nibble::quant_cpu {

/// words[i] = stream.word(first + i), i in [0, n).
void random_words(const RandomStream& stream, std::uint64_t first, std::int64_t n, std::uint32_t* words);
/// bytes[i] = stream.byte(first + i), i in [0, n).
void random_bytes(const RandomStream& stream, std::uint64_t first, std::int64_t n, std::uint8_t* bytes);

/// As e2m1_encode_stochastic(y * multiplier, words[i] >> 8).
void encode_e2m1_stochastic(const float* y, Multiplier multiplier, const std::uint32_t* words, std::int64_t n,
                            std::uint8_t* codes);
/// As e2m1_encode_stochastic8(y * multiplier, bytes[i]).
void encode_e2m1_stochastic8(const float* y, Multiplier multiplier, const std::uint8_t* bytes, std::int64_t n,
                             std::uint8_t* codes);
/// As int4_encode_stochastic(y * multiplier, words[i] >> 8).
void encode_int4_stochastic(const float* y, Multiplier multiplier, const std::uint32_t* words, std::int64_t n,
                            std::uint8_t* codes);
/// As e3m0_encode_stochastic(y * multiplier, words[i] >> 8, log_steps).
void encode_e3m0_stochastic(const float* y, Multiplier multiplier, int log_steps, const std::uint32_t* words,
                            std::int64_t n, std::uint8_t* codes);

}  // namespace nibble::quant_cpu
