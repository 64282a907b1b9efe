// Number formats and roundings written a second time: grids are lists of numbers, and the nearest one is looked for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "nibble/quant/quant_spec.h"

namespace nibble::reference {

inline float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

/// BF16 nearest to x, ties to even, by choosing between the two neighbours.
inline float to_bf16(float x) {
  if (!std::isfinite(x)) return x;
  const float down = as_float(as_bits(x) & 0xFFFF'0000u);
  const float up = as_float((as_bits(x) & 0xFFFF'0000u) + 0x1'0000u);
  const double below = std::abs(static_cast<double>(x) - down);
  const double above =
      std::isinf(up) ? std::ldexp(1.0, 128) - std::abs(static_cast<double>(x)) : std::abs(static_cast<double>(up) - x);
  if (below != above) return below < above ? down : up;
  return (as_bits(down) >> 16) % 2 == 0 ? down : up;
}

inline const std::vector<double>& e2m1_grid() {
  static const std::vector<double> grid = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return grid;
}
inline double e4m3_magnitude(int code) {
  return code < 8 ? code * std::ldexp(1.0, -9) : std::ldexp(1.0 + (code % 8) / 8.0, code / 8 - 7);
}
inline double e5m2_magnitude(int code) {
  return code < 4 ? code * std::ldexp(1.0, -16) : std::ldexp(1.0 + (code % 4) / 4.0, code / 4 - 15);
}
inline const std::vector<double>& e4m3_grid() {
  static const std::vector<double> grid = [] {
    std::vector<double> g;
    for (int code = 0; code <= 0x7E; ++code) g.push_back(e4m3_magnitude(code));
    return g;
  }();
  return grid;
}
inline const std::vector<double>& e5m2_grid() {
  static const std::vector<double> grid = [] {
    std::vector<double> g;
    for (int code = 0; code <= 0x7B; ++code) g.push_back(e5m2_magnitude(code));
    return g;
  }();
  return grid;
}

/// Index of the grid point nearest to |x|; `up` says where a tie between i and i + 1 goes.
template <class TieUp>
int nearest(const std::vector<double>& grid, double a, TieUp up) {
  int best = 0;
  for (int i = 1; i < static_cast<int>(grid.size()); ++i) {
    const double old_distance = std::abs(a - grid[static_cast<std::size_t>(best)]);
    const double distance = std::abs(a - grid[static_cast<std::size_t>(i)]);
    if (distance < old_distance || (distance == old_distance && up(i - 1))) best = i;
  }
  return best;
}

/// A four-bit format: magnitudes in ascending order, and their codes.
struct FourBit {
  std::vector<double> grid;
  std::vector<int> code;
};

inline FourBit four_bit_format(ElementFormat element, int log_steps = 6) {
  if (element == ElementFormat::E2M1) return {e2m1_grid(), {0, 1, 2, 3, 4, 5, 6, 7}};
  if (element == ElementFormat::Int4) return {{0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}};
  FourBit format{{0}, {0}};
  for (int step = log_steps; step >= 0; --step) {
    format.grid.push_back(std::ldexp(16.0, -step));
    format.code.push_back(7 - step);
  }
  return format;
}

inline double four_bit_value(ElementFormat element, int code) {
  const FourBit format = four_bit_format(element);
  const double magnitude = format.grid[static_cast<std::size_t>(code & 7)];
  return (code & 8) != 0 ? -magnitude : magnitude;
}

inline std::uint8_t round_nearest(float x, const FourBit& format, Rounding rounding) {
  if (std::isnan(x)) return 7;
  const bool negative = std::signbit(x);
  const auto up = [&](int below) {
    switch (rounding) {
      case Rounding::NearestUp: return !negative;
      case Rounding::NearestZero: return false;
      case Rounding::NearestAway: return true;
      default: return format.code[static_cast<std::size_t>(below)] % 2 == 1;
    }
  };
  const double a = std::min(std::abs(static_cast<double>(x)), format.grid.back());
  const int code = format.code[static_cast<std::size_t>(nearest(format.grid, a, up))];
  if (rounding == Rounding::NearestUp && code == 0) return 0;
  return static_cast<std::uint8_t>(code | (negative ? 8 : 0));
}

/// Index of the grid point below or at |x|, the last interval closed.
inline std::size_t interval(const std::vector<double>& grid, double a) {
  std::size_t lo = 0;
  while (lo + 2 < grid.size() && grid[lo + 1] <= a) ++lo;
  return lo;
}

/// hi with probability (|x| - lo) / (hi - lo).
inline std::uint8_t round_stochastic(float x, const FourBit& format, std::uint32_t word) {
  if (std::isnan(x)) return 7;
  const double a = std::min(std::abs(static_cast<double>(x)), format.grid.back());
  const std::size_t lo = interval(format.grid, a);
  const double u = static_cast<double>(word >> 8) / 16777216.0;
  const bool up = u < (a - format.grid[lo]) / (format.grid[lo + 1] - format.grid[lo]);
  return static_cast<std::uint8_t>(format.code[up ? lo + 1 : lo] | (std::signbit(x) ? 8 : 0));
}

inline std::uint8_t e2m1(float x, Rounding rounding) {
  return round_nearest(x, four_bit_format(ElementFormat::E2M1), rounding);
}
inline std::uint8_t e2m1_stochastic(float x, std::uint32_t word) {
  return round_stochastic(x, four_bit_format(ElementFormat::E2M1), word);
}

/// t = |x| + r/256 step(|x|), then floor to the grid.
inline std::uint8_t e2m1_stochastic8(float x, std::uint32_t byte) {
  if (std::isnan(x)) return 7;
  const auto step = [](double a) { return a < 2 ? 0.5 : a < 4 ? 1.0 : 2.0; };
  const double a = std::min(std::abs(static_cast<double>(x)), 8.0);
  const double t = static_cast<double>(static_cast<float>(a + byte / 256.0 * step(a)));
  const double q = std::min(std::floor(t / step(t)) * step(t), 6.0);
  const auto code = std::find(e2m1_grid().begin(), e2m1_grid().end(), q) - e2m1_grid().begin();
  return static_cast<std::uint8_t>(code | (std::signbit(x) ? 8 : 0));
}

/// The grid neighbour of x that is nearer to the reference, the lower one on a tie; a grid point stays.
inline std::uint8_t e2m1_towards(float x, float reference) {
  if (std::isnan(x)) return 7;
  const std::vector<double>& grid = e2m1_grid();
  const double a = std::min(std::abs(static_cast<double>(x)), 6.0);
  const std::size_t lo = interval(grid, a);
  const std::size_t sign = std::signbit(x) ? 8 : 0;
  if (a == grid[lo]) return static_cast<std::uint8_t>(lo | sign);
  if (a == grid[lo + 1]) return static_cast<std::uint8_t>((lo + 1) | sign);
  const double inner = sign != 0 ? -grid[lo] : grid[lo];
  const double outer = sign != 0 ? -grid[lo + 1] : grid[lo + 1];
  const bool upper = static_cast<double>(reference) > (inner + outer) / 2;
  const bool take_outer = upper == (outer > inner);
  return static_cast<std::uint8_t>((take_outer ? lo + 1 : lo) | sign);
}

inline std::uint8_t fp8(float x, bool e4m3) {
  const int sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return static_cast<std::uint8_t>(sign | 0x7F);
  const auto even = [](int below) { return below % 2 == 1; };
  const std::vector<double>& grid = e4m3 ? e4m3_grid() : e5m2_grid();
  return static_cast<std::uint8_t>(sign | nearest(grid, std::min(std::abs(static_cast<double>(x)), grid.back()), even));
}

/// E4M3 neighbours of x in [0, 448], the upper one with probability (x - lo) / (hi - lo).
inline std::uint8_t e4m3_stochastic(float x, std::uint32_t word) {
  const std::vector<double>& grid = e4m3_grid();
  const double a = std::min(static_cast<double>(x), 448.0);
  const std::size_t lo = interval(grid, a);
  const double u = static_cast<double>(word >> 8) / 16777216.0;
  return static_cast<std::uint8_t>(u < (a - grid[lo]) / (grid[lo + 1] - grid[lo]) ? lo + 1 : lo);
}

}  // namespace nibble::reference
