// Names for the random numbers of a linear layer (numerics/philox.h): unique by layer, use and sample within a step.
#pragma once

#include "nibble/numerics/philox.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

enum class Product : std::uint8_t { Fprop, Dgrad, Wgrad };

/// Bits 0-3 of the stream's tensor number: the use. Bits 4-23: the layer. Bits 24-31: the sample.
enum class StreamUse : std::uint32_t {
  Operand = 0,  ///< and the five numbers after it: one for each operand
  Signs = 6,    ///< and two more: one for each product
  OutlierX = 9,
  OutlierW = 10,
  OutlierWgradX = 11,
  OutlierDy = 12,
};

inline RandomStream layer_stream(std::uint64_t seed, std::uint32_t step, std::uint32_t layer, std::uint32_t use,
                                 std::uint32_t sample = 0) {
  return {seed, step, sample << 24 | layer << 4 | use};
}
inline RandomStream layer_stream(std::uint64_t seed, std::uint32_t step, std::uint32_t layer, StreamUse use) {
  return layer_stream(seed, step, layer, static_cast<std::uint32_t>(use));
}
/// Sample `sample` of an operand.
inline RandomStream operand_stream(std::uint64_t seed, std::uint32_t step, std::uint32_t layer, Operand operand,
                                   std::uint32_t sample = 0) {
  return layer_stream(seed, step, layer, static_cast<std::uint32_t>(operand), sample);
}
/// A seed for what is drawn anew in every pass, told apart by its first token; the first pass has the run's own seed.
inline std::uint64_t call_seed(std::uint64_t seed, std::int64_t first_token) {
  return seed + 0x9E37'79B9'7F4A'7C15u * static_cast<std::uint64_t>(first_token);  // 2^64 / golden ratio: spreads
}
/// The signs that the two operands of a product share.
inline RandomStream sign_stream(std::uint64_t seed, std::uint32_t step, std::uint32_t layer, Product product,
                                Hadamard::Signs signs, std::int64_t first_token) {
  return layer_stream(signs == Hadamard::Signs::Call ? call_seed(seed, first_token) : seed, step, layer,
                      static_cast<std::uint32_t>(StreamUse::Signs) + static_cast<std::uint32_t>(product));
}

}  // namespace nibble
