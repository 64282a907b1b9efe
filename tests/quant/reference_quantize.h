// The quantiser written a second time, block after block, straight from its definition. Slow, and shares nothing with
// the library but the random stream.
#pragma once

#include <random>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_formats.h"

namespace nibble::reference {

struct Result {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> y;            ///< what is quantised, before the clamp
  std::vector<float> clamped;      ///< and after it
  std::vector<int> codes;          ///< one an element; unused for F32 and BF16
  std::vector<float> values;       ///< dequantised, without the residual
  std::vector<float> block_scale;  ///< stored decode scale of each element's block
  std::vector<float> outer_scale;  ///< of each element's stretch, 1 where there is none
  std::vector<bool> trusted;
  float tensor_scale = 1;
};

inline std::vector<float> transpose(const std::vector<float>& x, std::int64_t rows, std::int64_t cols) {
  std::vector<float> t(x.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c)
      t[static_cast<std::size_t>(c * rows + r)] = x[static_cast<std::size_t>(r * cols + c)];
  }
  return t;
}

/// Sylvester's recursion, sums first: H [a b] = [Ha + Hb, Ha - Hb].
inline std::vector<float> sylvester(const std::vector<float>& x) {
  if (x.size() == 1) return x;
  const auto half = static_cast<std::ptrdiff_t>(x.size() / 2);
  std::vector<float> a = sylvester({x.begin(), x.begin() + half});
  const std::vector<float> b = sylvester({x.begin() + half, x.end()});
  std::vector<float> result(x.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    result[i] = a[i] + b[i];
    result[i + a.size()] = a[i] - b[i];
  }
  return result;
}

inline float sign_of(const Hadamard& hadamard, const RandomStream& stream, std::int64_t c) {
  constexpr int kVector[16] = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};
  if (hadamard.signs == Hadamard::Signs::Plus) return 1;
  if (hadamard.signs == Hadamard::Signs::Vector) return static_cast<float>(kVector[c]);
  return (stream.word(static_cast<std::uint64_t>(c / 32)) >> (c % 32) & 1u) != 0 ? -1.0f : 1.0f;
}

inline void rotate(std::vector<float>& x, const Hadamard& hadamard, const RandomStream& stream) {
  const auto g = static_cast<std::size_t>(hadamard.group);
  const auto norm = static_cast<float>(1 / std::sqrt(static_cast<double>(g)));
  for (std::size_t begin = 0; begin < x.size(); begin += g) {
    std::vector<float> group(x.begin() + static_cast<std::ptrdiff_t>(begin),
                             x.begin() + static_cast<std::ptrdiff_t>(begin + g));
    const auto sign = [&](std::size_t i) { return sign_of(hadamard, stream, static_cast<std::int64_t>(i)); };
    if (!hadamard.signs_last) {
      for (std::size_t i = 0; i < g; ++i) group[i] *= sign(i);
    }
    group = sylvester(group);
    for (std::size_t i = 0; i < g; ++i) x[begin + i] = group[i] * norm * (hadamard.signs_last ? sign(i) : 1.0f);
  }
}

/// The sum of f over the values: sixteen lanes in turn, folded in halves.
template <class F>
float lane_sum(const std::vector<float>& values, F f) {
  float lanes[16] = {};
  for (std::size_t i = 0; i < values.size(); ++i) lanes[i % 16] += f(values[i]);
  for (int width = 8; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

/// One block: the rows of its values, and what the scale rules come to.
struct Block {
  std::vector<std::vector<float>> rows;
  float amax = 0;

  float count() const { return static_cast<float>(rows.size() * rows[0].size()); }
  template <class F>
  float sum(F f) const {
    float total = 0;
    for (const std::vector<float>& row : rows) total += lane_sum(row, f);
    return total;
  }
};

struct Scale {
  float stored = 1;
  float encode = 0;  ///< elements are multiplied by it
};

/// The exponent e of the least power of two, the nearest in the logarithm, or the largest one not above ratio.
enum class Toward { Down, Nearest, Up };
inline int log2_rounded(double ratio, Toward toward) {
  int e = std::ilogb(ratio);
  if (toward == Toward::Up && std::ldexp(1.0, e) < ratio) ++e;
  if (toward == Toward::Nearest && ratio * ratio >= std::ldexp(2.0, 2 * e)) ++e;
  return e;
}

inline Scale e8m0(int e, float factor = 1) {
  e = std::clamp(e, -127, 127);
  return {std::ldexp(1.0f, e), std::ldexp(1.0f, -e) * factor};
}

inline Scale one_level_scale(const QuantSpec& spec, const Block& block) {
  const double max = static_cast<double>(element_max(spec.element));
  const float element_max_f = element_max(spec.element);
  const auto usable = [](float s) { return std::isfinite(1.0f / s) ? Scale{s, 1.0f / s} : Scale{1, 0}; };
  const float amax = block.amax;
  const auto pow2 = [&](Toward toward, float factor = 1) {
    return amax == 0 ? e8m0(-127, factor) : e8m0(log2_rounded(static_cast<double>(amax) / max, toward), factor);
  };
  const auto quest = [&] {
    const float mean = block.sum([](float v) { return v; }) / block.count();
    const float variance = block.sum([](float v) { return v * v; }) / block.count() - mean * mean;
    const float c = static_cast<float>(2.92247856 / 6) * std::sqrt(variance > 0 ? variance : 0.0f) + 1e-8f;
    return std::isfinite(c) ? c : std::numeric_limits<float>::max();
  };
  const auto quest_pow2 = [&](Toward toward) {
    return amax == 0 ? e8m0(-127) : e8m0(log2_rounded(static_cast<double>(quest()), toward));
  };
  switch (spec.scale) {
    case ScaleRule::Absmax: return usable(amax / element_max_f);
    case ScaleRule::AbsmaxPow2: {
      const float ratio = element_max_f / amax;
      if (!std::isfinite(ratio)) return {1, 0};
      const int e = std::ilogb(ratio);
      return {std::ldexp(1.0f, -e), std::ldexp(1.0f, e)};
    }
    case ScaleRule::OcpFloor: return e8m0(amax == 0 ? -127 : std::ilogb(amax) - std::ilogb(max));
    case ScaleRule::RangeMatch34: return e8m0(amax == 0 ? -127 : std::ilogb(amax) - std::ilogb(max), 0.75f);
    case ScaleRule::Ceil6: return pow2(Toward::Up);
    case ScaleRule::Nearest6: return pow2(Toward::Nearest);
    case ScaleRule::QuestFloor: return quest_pow2(Toward::Down);
    case ScaleRule::QuestNearest: return quest_pow2(Toward::Nearest);
    case ScaleRule::QuestCeil: return quest_pow2(Toward::Up);
    case ScaleRule::QuestExact: return amax == 0 ? Scale{1, 0} : Scale{quest(), 1.0f / quest()};
    case ScaleRule::Sawb: {
      const float rms = std::sqrt(block.sum([](float v) { return v * v; }) / block.count());
      const float clip = 12.68f * rms - 12.80f * (block.sum([](float v) { return std::abs(v); }) / block.count());
      return usable((clip > 0 && std::isfinite(clip) ? clip : amax) / 7.0f);
    }
    case ScaleRule::Nvfp4:
    case ScaleRule::None: break;
  }
  return {};
}

/// The outer level of Nvfp4 from the amax under it.
inline float encode_outer(const Nvfp4Scale& rule, float amax) {
  const auto largest = static_cast<float>(rule.val_max * rule.scale_max);
  return amax == 0 ? 1.0f : std::min(largest / amax, std::numeric_limits<float>::max());
}

inline Scale nvfp4_scale(const Nvfp4Scale& rule, float s_enc, float stretch, float amax) {
  const float most = std::numeric_limits<float>::max();
  const float m = std::min(s_enc * static_cast<float>(1 / rule.val_max), most);
  float s = static_cast<float>(e4m3_magnitude(fp8(amax * m * stretch, true)));
  if (s == 0) s = static_cast<float>(rule.zero_scale);
  return {s, std::min(1.0f / (s * (1.0f / s_enc)), most)};
}

/// Error of a block under one candidate of four-over-six.
inline float selection_error(const QuantSpec& spec, const Block& block, Scale scale, float s_enc) {
  const bool nearest_rule = spec.rounding == Rounding::NearestUp || spec.rounding == Rounding::NearestZero ||
                            spec.rounding == Rounding::NearestAway;
  const Rounding rounding = nearest_rule ? spec.rounding : Rounding::NearestEven;
  const float decode = scale.stored * (1.0f / s_enc);
  const auto error = [&](float v) {
    return v - static_cast<float>(four_bit_value(ElementFormat::E2M1, e2m1(v * scale.encode, rounding))) * decode;
  };
  if (spec.nvfp4.selection == Selection::Mse) return block.sum([&](float v) { return error(v) * error(v); });
  if (spec.nvfp4.selection == Selection::Mae) return block.sum([&](float v) { return std::abs(error(v)); });
  float largest = 0;
  for (const std::vector<float>& row : block.rows) {
    for (const float v : row) largest = std::max(largest, std::abs(error(v)));
  }
  return largest;
}

inline void clamp_values(std::vector<float>& x, std::int64_t cols, const Clamp& clamp) {
  const auto total = static_cast<std::int64_t>(x.size());
  const std::int64_t group = clamp.per_row ? cols : total;
  for (std::int64_t begin = 0; begin < total; begin += group) {
    std::vector<float> sorted(x.begin() + begin, x.begin() + begin + group);
    std::sort(sorted.begin(), sorted.end(),
              [](float a, float b) { return a < b || (a == b && std::signbit(a) && !std::signbit(b)); });
    const double n = static_cast<double>(group);
    const float lo = sorted[static_cast<std::size_t>((1 - clamp.alpha) * n)];
    const float hi =
        sorted[static_cast<std::size_t>(std::min<std::int64_t>(static_cast<std::int64_t>(clamp.alpha * n), group - 1))];
    for (std::int64_t i = begin; i < begin + group; ++i) {
      float& v = x[static_cast<std::size_t>(i)];
      if (v < lo || (v == lo && std::signbit(v))) v = lo;
      if (v > hi || (v == hi && !std::signbit(v))) v = hi;
    }
  }
}

/// Everything but the carrier and the dense residual. x [rows, cols] as floats (already BF16 values where the tensor is
/// BF16).
inline Result quantize(const std::vector<float>& x, std::int64_t x_rows, std::int64_t x_cols, const QuantSpec& spec,
                       const QuantizeContext& context) {
  Result result;
  result.rows = spec.transposed ? x_cols : x_rows;
  result.cols = spec.transposed ? x_rows : x_cols;
  const std::int64_t rows = result.rows;
  const std::int64_t cols = result.cols;
  const auto at = [&](std::int64_t r, std::int64_t c) { return static_cast<std::size_t>(r * cols + c); };
  const auto arranged = [&](std::vector<float> v) {
    if (spec.transposed) v = transpose(v, x_rows, x_cols);
    if (spec.hadamard.enabled()) rotate(v, spec.hadamard, context.signs);
    return v;
  };
  result.y = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    float& y = result.y[i];
    if (spec.bf16_input) y = to_bf16(y);
    if (context.row_fold.defined()) y *= context.row_fold.data<float>()[static_cast<std::int64_t>(i) / x_cols];
    if (context.col_fold.defined()) y *= context.col_fold.data<float>()[static_cast<std::int64_t>(i) % x_cols];
  }
  result.y = arranged(result.y);
  std::vector<float> towards;
  if (spec.rounding == Rounding::Reference) {
    const float* p = context.reference.data<float>();
    towards = arranged({p, p + x.size()});
  }
  result.clamped = result.y;
  if (spec.clamp.enabled()) clamp_values(result.clamped, cols, spec.clamp);
  result.values = result.clamped;
  result.codes.assign(x.size(), 0);
  result.block_scale.assign(x.size(), 1.0f);
  result.outer_scale.assign(x.size(), 1.0f);
  result.trusted.assign(x.size(), false);
  if (spec.element == ElementFormat::BF16) {
    for (float& v : result.values) v = to_bf16(v);
  }
  if (!has_scale(spec.element)) return result;

  const auto magnitude = [](float v) { return std::isfinite(v) ? std::abs(v) : std::numeric_limits<float>::max(); };
  const auto amax_of = [&](std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1) {
    float amax = 0;
    for (std::int64_t r = r0; r < r1; ++r) {
      for (std::int64_t c = c0; c < c1; ++c) amax = std::max(amax, magnitude(result.clamped[at(r, c)]));
    }
    return amax;
  };
  const bool nvfp4 = spec.scale == ScaleRule::Nvfp4;
  const std::int64_t outer = nvfp4 ? spec.nvfp4.outer : 0;
  float s_enc = 1;
  if (nvfp4 && outer == 0) s_enc = encode_outer(spec.nvfp4, amax_of(0, rows, 0, cols));
  if (nvfp4) result.tensor_scale = 1.0f / s_enc;
  if (spec.scale == ScaleRule::RangeMatch34) result.tensor_scale = 4.0f / 3.0f;

  const FourBit format = is_four_bit(spec.element) ? four_bit_format(spec.element, spec.log_steps) : FourBit{};
  const std::uint64_t stride = context.element_stride != 0 ? context.element_stride : static_cast<std::uint64_t>(cols);
  const auto element_number = [&](std::int64_t r, std::int64_t c) {
    return static_cast<std::uint64_t>(r) * stride + static_cast<std::uint64_t>(c) + context.element_offset;
  };
  std::vector<float> encode(x.size());
  const std::int64_t block_rows = spec.granularity.rows == 0 ? rows : spec.granularity.rows;
  const std::int64_t block_cols = spec.granularity.cols == 0 ? cols : spec.granularity.cols;
  for (std::int64_t r0 = 0; r0 < rows; r0 += block_rows) {
    for (std::int64_t c0 = 0; c0 < cols; c0 += block_cols) {
      const std::int64_t r1 = std::min(rows, r0 + block_rows);
      const std::int64_t c1 = std::min(cols, c0 + block_cols);
      Block block;
      block.amax = amax_of(r0, r1, c0, c1);
      for (std::int64_t r = r0; r < r1; ++r) {
        block.rows.emplace_back(result.clamped.begin() + r * cols + c0, result.clamped.begin() + r * cols + c1);
      }
      float outer_encode = 1;
      if (outer > 0) {
        const std::int64_t begin = c0 / outer * outer;
        outer_encode = encode_outer(spec.nvfp4, amax_of(r0, r1, begin, std::min(cols, begin + outer)));
      }
      Scale scale;
      if (nvfp4) {
        const float enc = outer > 0 ? outer_encode : s_enc;
        scale = nvfp4_scale(spec.nvfp4, enc, 1.0f, block.amax);
        if (spec.nvfp4.selection != Selection::None) {
          const Scale four = nvfp4_scale(spec.nvfp4, enc, 1.5f, block.amax);
          if (selection_error(spec, block, four, enc) < selection_error(spec, block, scale, enc)) scale = four;
        }
      } else {
        scale = one_level_scale(spec, block);
      }
      for (std::int64_t r = r0; r < r1; ++r) {
        for (std::int64_t c = c0; c < c1; ++c) {
          const std::size_t i = at(r, c);
          const std::uint64_t element = element_number(r, c);
          const float scaled = result.clamped[i] * scale.encode;
          int code = 0;
          if (is_four_bit(spec.element)) {
            switch (spec.rounding) {
              case Rounding::Stochastic: code = round_stochastic(scaled, format, context.random.word(element)); break;
              case Rounding::Stochastic8: code = e2m1_stochastic8(scaled, context.random.byte(element)); break;
              case Rounding::Reference: code = e2m1_towards(scaled, towards[i] * scale.encode); break;
              default: code = round_nearest(scaled, format, spec.rounding); break;
            }
          } else {
            code = fp8(scaled, spec.element == ElementFormat::E4M3);
          }
          encode[i] = scale.encode;
          result.codes[i] = code;
          result.trusted[i] = std::abs(scaled) < 6.0f;
          result.block_scale[i] = scale.stored;
          result.outer_scale[i] = outer > 0 ? 1.0f / outer_encode : 1.0f;
        }
      }
    }
  }
  if (spec.rounding == Rounding::Eden) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t g0 = 0; g0 < cols; g0 += spec.eden_group) {
        const std::int64_t g1 = std::min(cols, g0 + spec.eden_group);
        std::vector<float> zz, zq;
        for (std::int64_t c = g0; c < g1; ++c) {
          const float z = result.clamped[at(r, c)] * encode[at(r, c)];
          zz.push_back(z * z);
          zq.push_back(z * static_cast<float>(four_bit_value(ElementFormat::E2M1, result.codes[at(r, c)])));
        }
        const auto same = [](float v) { return v; };
        float correction = lane_sum(zz, same) / lane_sum(zq, same);
        if (!std::isfinite(correction)) correction = 1;
        for (std::int64_t b0 = g0; b0 < g1; b0 += 16) {
          // Blocks are numbered on from the row's first element.
          const std::uint64_t number = element_number(r, 0) / 16 + static_cast<std::uint64_t>(b0 / 16);
          const std::uint8_t code =
              e4m3_stochastic(result.block_scale[at(r, b0)] * correction, context.random.word(number));
          for (std::int64_t c = b0; c < std::min(g1, b0 + 16); ++c) {
            result.block_scale[at(r, c)] = static_cast<float>(e4m3_magnitude(code));
          }
        }
      }
    }
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int code = result.codes[i];
    double value = 0;
    if (is_four_bit(spec.element)) {
      value = four_bit_value(spec.element, code);
    } else {
      const int m = code & 0x7F;
      value = (spec.element == ElementFormat::E4M3 ? e4m3_magnitude(m) : e5m2_magnitude(m)) * (code & 0x80 ? -1 : 1);
    }
    result.values[i] = static_cast<float>(value) * result.block_scale[i] * result.outer_scale[i] * result.tensor_scale;
  }
  return result;
}

/// Code of one element as stored.
inline int code_at(const QTensor& q, std::int64_t r, std::int64_t c) {
  const std::uint8_t* row = q.codes.data<std::uint8_t>() + r * q.code_row_bytes();
  if (!is_four_bit(q.element)) return row[c];
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
