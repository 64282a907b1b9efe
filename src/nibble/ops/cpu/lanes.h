// Sums and maxima over sixteen independent lanes. The lane of an element is its index modulo 16 and the lanes are
// combined as a tree, so the order of additions, and with it every bit of the result, is the same whether the
// compiler fills a vector of 4, 8 or 16 floats. For use inside NIBBLE_SIMD functions.
#pragma once

#include <cstdint>

namespace nibble {

inline constexpr int kLanes = 16;

/// sum over i in [0, n) of term(i), each lane added in type A.
template <class A, class Term>
[[gnu::always_inline]] inline A lane_sum(std::int64_t n, Term term) {
  A lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lane[l] += term(i + l);
  }
  for (int l = 0; i + l < n; ++l) lane[l] += term(i + l);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

}  // namespace nibble
