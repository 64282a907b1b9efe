// A pseudo-random order of 0 ... n-1 that is computed, not stored: a Feistel network on the smallest even number of
// bits that holds n, walked along its cycle until it lands inside (Black & Rogaway, "Ciphers with arbitrary finite
// domains", CT-RSA 2002). The round function is Philox, keyed by (seed, epoch).
#pragma once

#include <cstdint>

namespace nibble {

class Permutation {
 public:
  /// n in [1, 2^62].
  Permutation(std::int64_t n, std::uint64_t seed, std::int64_t epoch);
  /// Where the order goes at position i in [0, n): a bijection of [0, n).
  std::int64_t operator()(std::int64_t i) const;
  std::int64_t size() const { return n_; }

 private:
  std::uint64_t encrypt(std::uint64_t x) const;
  std::int64_t n_;
  std::uint64_t seed_;
  std::uint64_t epoch_;
  int half_bits_;
};

}  // namespace nibble
