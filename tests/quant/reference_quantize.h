// The quantiser written a second time, one element after the other, straight from its definition: grids are lists
// of numbers and the nearest one is looked for. Slow, and shares nothing with the library but the random stream.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "nibble/quant/quantize.h"

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

inline std::uint8_t e2m1(float x, Rounding rounding) {
  if (std::isnan(x)) return 7;
  const bool negative = std::signbit(x);
  const auto up = [&](int below) {
    switch (rounding) {
      case Rounding::NearestUp: return !negative;
      case Rounding::NearestZero: return false;
      case Rounding::NearestAway: return true;
      default: return below % 2 == 1;
    }
  };
  const double a = std::min(std::abs(static_cast<double>(x)), 6.0);
  const int code = nearest(e2m1_grid(), a, up);
  if (rounding == Rounding::NearestUp && code == 0) return 0;
  return static_cast<std::uint8_t>(code | (negative ? 8 : 0));
}

/// hi with probability (|x| - lo) / (hi - lo).
inline std::uint8_t e2m1_stochastic(float x, std::uint32_t word) {
  const double a = std::min(std::abs(static_cast<double>(x)), 6.0);
  int lo = 0;
  while (lo < 6 && e2m1_grid()[static_cast<std::size_t>(lo) + 1] <= a) ++lo;
  const double low = e2m1_grid()[static_cast<std::size_t>(lo)];
  const double high = e2m1_grid()[static_cast<std::size_t>(lo) + 1];
  const double u = static_cast<double>(word >> 8) / 16777216.0;
  return static_cast<std::uint8_t>((u < (a - low) / (high - low) ? lo + 1 : lo) | (std::signbit(x) ? 8 : 0));
}

/// t = |x| + r/256 step(|x|), then floor to the grid.
inline std::uint8_t e2m1_stochastic8(float x, std::uint32_t byte) {
  const auto step = [](double a) { return a < 2 ? 0.5 : a < 4 ? 1.0 : 2.0; };
  const double a = std::min(std::abs(static_cast<double>(x)), 8.0);
  const double t = static_cast<double>(static_cast<float>(a + byte / 256.0 * step(a)));
  const double q = std::min(std::floor(t / step(t)) * step(t), 6.0);
  const auto code = std::find(e2m1_grid().begin(), e2m1_grid().end(), q) - e2m1_grid().begin();
  return static_cast<std::uint8_t>(code | (std::signbit(x) ? 8 : 0));
}

inline std::uint8_t fp8(float x, bool e4m3) {
  const int sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return static_cast<std::uint8_t>(sign | 0x7F);
  const auto even = [](int below) { return below % 2 == 1; };
  const std::vector<double>& grid = e4m3 ? e4m3_grid() : e5m2_grid();
  return static_cast<std::uint8_t>(sign | nearest(grid, std::min(std::abs(static_cast<double>(x)), grid.back()), even));
}

struct Result {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> y;            ///< what is quantised, before the clamp
  std::vector<float> clamped;      ///< and after it
  std::vector<int> codes;          ///< one an element; unused for F32 and BF16
  std::vector<float> values;       ///< dequantised, without the residual
  std::vector<float> block_scale;  ///< stored decode scale of each element's block
  float tensor_scale = 1;
};

/// Everything but the carrier. x as floats (already BF16 values where the tensor is BF16).
inline Result quantize(const std::vector<float>& x, std::int64_t rows, std::int64_t cols, const QuantSpec& spec,
                       const QuantizeContext& context) {
  const auto at = [&](std::int64_t r, std::int64_t c) { return static_cast<std::size_t>(r * cols + c); };
  Result result;
  result.rows = rows;
  result.cols = cols;
  result.y = x;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      float& y = result.y[at(r, c)];
      if (spec.bf16_input) y = to_bf16(y);
      if (context.row_fold.defined()) y *= context.row_fold.data<float>()[r];
      if (context.col_fold.defined()) y *= context.col_fold.data<float>()[c];
    }
  }
  result.clamped = result.y;
  if (spec.clamp.enabled()) {
    const std::int64_t group = spec.clamp.per_row ? cols : rows * cols;
    for (std::int64_t begin = 0; begin < rows * cols; begin += group) {
      std::vector<float> sorted(result.y.begin() + begin, result.y.begin() + begin + group);
      std::sort(sorted.begin(), sorted.end(),
                [](float a, float b) { return a < b || (a == b && std::signbit(a) && !std::signbit(b)); });
      const double n = static_cast<double>(group);
      const float lo = sorted[static_cast<std::size_t>((1 - spec.clamp.alpha) * n)];
      const float hi = sorted[static_cast<std::size_t>(
          std::min<std::int64_t>(static_cast<std::int64_t>(spec.clamp.alpha * n), group - 1))];
      for (std::int64_t i = begin; i < begin + group; ++i) {
        float& v = result.clamped[static_cast<std::size_t>(i)];
        if (v < lo || (v == lo && std::signbit(v))) v = lo;
        if (v > hi || (v == hi && !std::signbit(v))) v = hi;
      }
    }
  }
  result.values = result.clamped;
  result.codes.assign(x.size(), 0);
  result.block_scale.assign(x.size(), 1.0f);
  if (spec.element == ElementFormat::BF16) {
    for (float& v : result.values) v = to_bf16(v);
  }
  if (!has_scale(spec.element)) return result;

  const float largest = std::numeric_limits<float>::max();
  const float element_max = spec.element == ElementFormat::E2M1   ? 6.0f
                            : spec.element == ElementFormat::E4M3 ? 448.0f
                                                                  : 57344.0f;
  const auto magnitude = [&](float v) { return std::isfinite(v) ? std::abs(v) : largest; };
  float s_enc = 1;
  if (spec.scale == ScaleRule::Nvfp4) {
    float amax = 0;
    for (const float v : result.clamped) amax = std::max(amax, magnitude(v));
    if (amax > 0) s_enc = std::min(2688.0f / amax, largest);
    result.tensor_scale = 1.0f / s_enc;
  }
  const std::int64_t block_rows = spec.granularity.rows == 0 ? rows : spec.granularity.rows;
  const std::int64_t block_cols = spec.granularity.cols == 0 ? cols : spec.granularity.cols;
  for (std::int64_t r0 = 0; r0 < rows; r0 += block_rows) {
    for (std::int64_t c0 = 0; c0 < cols; c0 += block_cols) {
      const std::int64_t r1 = std::min(rows, r0 + block_rows);
      const std::int64_t c1 = std::min(cols, c0 + block_cols);
      float amax = 0;
      for (std::int64_t r = r0; r < r1; ++r) {
        for (std::int64_t c = c0; c < c1; ++c) amax = std::max(amax, magnitude(result.clamped[at(r, c)]));
      }
      float s = 1;
      float encode = 0;
      switch (spec.scale) {
        case ScaleRule::Absmax:
          s = amax / element_max;
          encode = 1.0f / s;
          if (!std::isfinite(encode)) s = 1, encode = 0;
          break;
        case ScaleRule::AbsmaxPow2: {
          const float ratio = element_max / amax;
          if (!std::isfinite(ratio)) break;
          const int e = std::ilogb(ratio);
          s = std::ldexp(1.0f, -e);
          encode = std::ldexp(1.0f, e);
          break;
        }
        case ScaleRule::OcpFloor:
        case ScaleRule::Ceil6: {
          int e = -127;
          if (amax > 0 && spec.scale == ScaleRule::OcpFloor) e = std::ilogb(amax) - 2;
          if (amax > 0 && spec.scale == ScaleRule::Ceil6) {  // the least e with 6 * 2^e >= amax
            e = std::ilogb(amax) - 4;
            while (std::ldexp(6.0, e) < static_cast<double>(amax)) ++e;
          }
          e = std::clamp(e, -127, 127);
          s = std::ldexp(1.0f, e);
          encode = std::ldexp(1.0f, -e);
          break;
        }
        case ScaleRule::Nvfp4: {
          const float m = std::min(s_enc * (1.0f / 6.0f), largest);
          s = static_cast<float>(e4m3_magnitude(fp8(amax * m, true)));
          encode = std::min(1.0f / (s * result.tensor_scale), largest);
          break;
        }
        case ScaleRule::None: break;
      }
      for (std::int64_t r = r0; r < r1; ++r) {
        for (std::int64_t c = c0; c < c1; ++c) {
          const std::uint64_t element = context.element_offset + at(r, c);
          const float scaled = result.clamped[at(r, c)] * encode;
          int code = 0;
          double value = 0;
          if (spec.element == ElementFormat::E2M1) {
            code = spec.rounding == Rounding::Stochastic    ? e2m1_stochastic(scaled, context.random.word(element))
                   : spec.rounding == Rounding::Stochastic8 ? e2m1_stochastic8(scaled, context.random.byte(element))
                                                            : e2m1(scaled, spec.rounding);
            value = e2m1_grid()[static_cast<std::size_t>(code & 7)] * (code & 8 ? -1 : 1);
          } else {
            const bool e4m3 = spec.element == ElementFormat::E4M3;
            code = fp8(scaled, e4m3);
            value = (e4m3 ? e4m3_magnitude(code & 0x7F) : e5m2_magnitude(code & 0x7F)) * (code & 0x80 ? -1 : 1);
          }
          result.codes[at(r, c)] = code;
          result.block_scale[at(r, c)] = s;
          result.values[at(r, c)] = static_cast<float>(value) * s * result.tensor_scale;
        }
      }
    }
  }
  return result;
}

/// Code of one element as stored.
inline int code_at(const QTensor& q, std::int64_t r, std::int64_t c) {
  const std::uint8_t* row = q.codes.data<std::uint8_t>() + r * q.code_row_bytes();
  if (q.element != ElementFormat::E2M1) return row[c];
  return c % 2 == 0 ? row[c / 2] & 15 : row[c / 2] >> 4;
}

/// A tensor of the given dtype holding the values (rounded to BF16 if need be, in `values` too).
inline OwnedTensor make_tensor(DType dtype, std::int64_t rows, std::int64_t cols, std::vector<float>& values) {
  OwnedTensor t(dtype, {rows, cols});
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::BF16) {
      values[i] = to_bf16(values[i]);
      t.view().data<bf16>()[i].bits = static_cast<std::uint16_t>(as_bits(values[i]) >> 16);
    } else {
      t.view().data<float>()[i] = values[i];
    }
  }
  return t;
}

inline std::vector<float> gaussian(std::size_t n, std::uint64_t seed, float sigma = 1.0f) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> x(n);
  for (float& v : x) v = normal(engine);
  return x;
}

}  // namespace nibble::reference
