// A slow, plain definition of "round to the nearest value of a format": list every magnitude of the format in
// double and search. Written from the formats' definitions, not from the code under test.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "nibble/numerics/rounding.h"

namespace nibble::oracle {

/// The finite magnitudes of a small float format in the order of their codes: code = exponent field | mantissa.
inline std::vector<double> magnitudes(int mantissa_bits, int bias, int count) {
  std::vector<double> grid;
  for (int code = 0; code < count; ++code) {
    const int field = code >> mantissa_bits;
    const double fraction = std::ldexp(code & ((1 << mantissa_bits) - 1), -mantissa_bits);
    grid.push_back(field == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, field - bias));
  }
  return grid;
}

inline std::vector<double> e2m1_magnitudes() { return {0, 0.5, 1, 1.5, 2, 3, 4, 6}; }
inline std::vector<double> int4_magnitudes() { return {0, 1, 2, 3, 4, 5, 6, 7}; }
inline std::vector<double> e4m3_magnitudes() { return magnitudes(3, 7, 0x7F); }
inline std::vector<double> e5m2_magnitudes() { return magnitudes(2, 15, 0x7C); }
inline std::vector<double> fp16_magnitudes() { return magnitudes(10, 15, 0x7C00); }

/// Code of the magnitude nearest to |x|; beyond the last one, the last. x is not NaN.
inline int nearest(const std::vector<double>& grid, double x, Tie tie) {
  const double a = std::abs(x);
  const auto above = static_cast<int>(std::lower_bound(grid.begin(), grid.end(), a) - grid.begin());
  if (above == 0) return 0;
  if (above == static_cast<int>(grid.size())) return above - 1;
  const int below = above - 1;
  const double to_below = a - grid[static_cast<std::size_t>(below)];
  const double to_above = grid[static_cast<std::size_t>(above)] - a;
  if (to_below != to_above) return to_below < to_above ? below : above;
  switch (tie) {
    case Tie::Even: return below % 2 == 0 ? below : above;
    case Tie::Up: return std::signbit(x) ? below : above;
    case Tie::Zero: return below;
    case Tie::Away: return above;
  }
  return -1;
}

/// The 65536 BF16 values as floats.
inline std::vector<float> all_bf16() {
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) values.push_back(std::bit_cast<float>(bits << 16));
  return values;
}

/// Every value of the format, every midpoint between neighbours, and the floats next to each of these, both signs.
inline std::vector<float> around_midpoints(const std::vector<double>& grid) {
  std::vector<float> values;
  const auto add = [&](double v) {
    const auto x = static_cast<float>(v);
    for (float y : {x, std::nextafter(x, -1e38f), std::nextafter(x, 1e38f)}) {
      values.push_back(y);
      values.push_back(-y);
    }
  };
  for (std::size_t i = 0; i < grid.size(); ++i) {
    add(grid[i]);
    if (i + 1 < grid.size()) add((grid[i] + grid[i + 1]) / 2);
  }
  return values;
}

/// How many of the 2^24 random numbers take `upper(random24)`, which must hold below a threshold and not above it.
template <class Upper>
std::uint32_t threshold(Upper upper) {
  std::uint32_t below = 0;  // numbers below it do
  std::uint32_t count = 1u << 24;
  while (count > 0) {
    const std::uint32_t half = count / 2;
    if (upper(below + half)) {
      below += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return below;
}

/// The mean of decode(encode(x, random24)) over all 2^24 random numbers, for an encoder that gives the code at number 0
/// below a threshold and the code at the last number above it.
template <class Encode, class Decode>
double expected_value(float x, Encode encode, Decode decode) {
  const auto low = encode(x, 0u);
  const auto high = encode(x, 0xFF'FFFFu);
  const std::uint32_t n = threshold([&](std::uint32_t r) { return encode(x, r) == low; });
  if (n < 1u << 24) {
    EXPECT_EQ(encode(x, n), high) << x;
  }
  const double p = static_cast<double>(n) / 0x1p24;
  return p * static_cast<double>(decode(low)) + (1 - p) * static_cast<double>(decode(high));
}

}  // namespace nibble::oracle
