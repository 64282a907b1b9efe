// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): a counter-based
// generator. A random number is a pure function of (seed, step, tensor, element), so results depend on no
// thread, block, rank or resume point.
#pragma once

#include "nibble/numerics/portable.h"

namespace nibble {

struct Philox4 {
  std::uint32_t v[4];
};

/// What the rounds add to a key.
inline constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
inline constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

NIBBLE_FN Philox4 philox_round(Philox4 counter, std::uint32_t key0, std::uint32_t key1) {
  const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter.v[0];
  const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter.v[2];
  return {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.v[1] ^ key0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ counter.v[3] ^ key1, static_cast<std::uint32_t>(p0)}};
}

/// The raw bijection: 128-bit counter, 64-bit key, ten rounds.
NIBBLE_FN Philox4 philox4x32_10(Philox4 counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    counter = philox_round(counter, key0, key1);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

/// Names one stream of random numbers: `seed` of the run, optimizer `step`, and `tensor`, a number that is
/// unique per (layer, operand, use) within a step.
struct RandomStream {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t tensor = 0;

  /// Four random words for the group of elements `group` (element / 4 when one word serves an element).
  NIBBLE_FN Philox4 words(std::uint64_t group) const {
    return philox4x32_10({{static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(group >> 32), step, tensor}},
                         static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
  }
  /// The 32-bit word of one element.
  NIBBLE_FN std::uint32_t word(std::uint64_t element) const { return words(element >> 2).v[element & 3]; }
  /// The random byte of one element: sixteen elements share one Philox call.
  NIBBLE_FN std::uint32_t byte(std::uint64_t element) const {
    return (words(element >> 4).v[(element >> 2) & 3] >> (8 * (element & 3))) & 0xFFu;
  }
};

/// The same numbers by keys of all rounds, worked out once: two additions a round less for who draws many.
struct KeyedStream {
  std::uint32_t step = 0;
  std::uint32_t tensor = 0;
  std::uint32_t keys[10][2] = {};

  KeyedStream() = default;
  NIBBLE_FN explicit KeyedStream(const RandomStream& stream) : step(stream.step), tensor(stream.tensor) {
    for (std::uint32_t round = 0; round < 10; ++round) {
      keys[round][0] = static_cast<std::uint32_t>(stream.seed) + round * kPhiloxWeyl0;
      keys[round][1] = static_cast<std::uint32_t>(stream.seed >> 32) + round * kPhiloxWeyl1;
    }
  }
  NIBBLE_FN Philox4 words(std::uint64_t group) const {
    Philox4 counter{{static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(group >> 32), step, tensor}};
    for (const auto& key : keys) counter = philox_round(counter, key[0], key[1]);
    return counter;
  }
  NIBBLE_FN std::uint32_t word(std::uint64_t element) const { return words(element >> 2).v[element & 3]; }
};

/// Uniform on [0, 1) with 24 bits.
NIBBLE_FN float uniform24(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace nibble
