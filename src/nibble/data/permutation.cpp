#include "nibble/data/permutation.h"

#include <bit>

#include "nibble/numerics/philox.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

// Four rounds are enough in theory (Luby & Rackoff 1988) for large domains; small ones need more to mix.
constexpr std::uint32_t kRounds = 8;

}  // namespace

Permutation::Permutation(std::int64_t n, std::uint64_t seed, std::int64_t epoch)
    : n_(n), seed_(seed), epoch_(static_cast<std::uint64_t>(epoch)) {
  require(n >= 1 && n <= std::int64_t{1} << 62, "a permutation of {} items", n);
  half_bits_ = (std::bit_width(static_cast<std::uint64_t>(n - 1)) + 1) / 2;
}

std::uint64_t Permutation::encrypt(std::uint64_t x) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = x >> half_bits_;
  std::uint64_t right = x & mask;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    const Philox4 mixed = philox4x32_10({{static_cast<std::uint32_t>(right), round, static_cast<std::uint32_t>(epoch_),
                                          static_cast<std::uint32_t>(epoch_ >> 32)}},
                                        static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32));
    const std::uint64_t next = left ^ (mixed.v[0] & mask);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

std::int64_t Permutation::operator()(std::int64_t i) const {
  require(i >= 0 && i < n_, "position {} of {}", i, n_);
  // The domain is less than four times n, so a walk takes fewer than four steps on average.
  std::uint64_t x = static_cast<std::uint64_t>(i);
  do {
    x = encrypt(x);
  } while (x >= static_cast<std::uint64_t>(n_));
  return static_cast<std::int64_t>(x);
}

}  // namespace nibble
