// What the tests of published figures share: quantisers by name, values, and errors on Gaussian numbers.
#pragma once

#include <gtest/gtest.h>

#include "tests/quant/quantiser.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {

inline QuantSpec mxfp4(ScaleRule scale, Rounding rounding = Rounding::NearestEven) {
  return quantiser(ElementFormat::E2M1, Granularity::block(1, 32), scale, rounding);
}
inline QuantSpec nvfp4(Rounding rounding = Rounding::NearestEven, const Nvfp4Scale& scale = {}) {
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4, rounding);
  spec.nvfp4 = scale;
  return spec;
}
inline QuantSpec nvfp4_tiles(const Nvfp4Scale& scale = {}) {
  QuantSpec spec = nvfp4(Rounding::NearestEven, scale);
  spec.granularity = Granularity::block(16, 16);
  return spec;
}
inline QuantSpec eden(std::int64_t group) {
  QuantSpec spec = nvfp4(Rounding::Eden, {6 / 0.988125, 255.99, 1, 0, Selection::None});
  spec.eden_group = group;
  return spec;
}
inline Nvfp4Scale four_six(Selection selection) { return {6, 256, 1, 0, selection}; }
inline constexpr double kUnbiasedMax = 6.0 * 16 / 17;  ///< val_max that keeps E4M3 rounding from clipping

inline std::vector<float> values_of(const QTensor& q) {
  std::vector<float> values(static_cast<std::size_t>(q.rows * q.cols));
  dequantize(q, Tensor::of(values.data(), {q.rows, q.cols}));
  return values;
}
/// Element values without any scale.
inline std::vector<float> elements_of(const QTensor& q) {
  std::vector<float> values;
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      values.push_back(static_cast<float>(reference::four_bit_value(q.element, reference::code_at(q, r, c))));
    }
  }
  return values;
}
inline QTensor quantise(const std::vector<float>& x, std::int64_t rows, const QuantSpec& spec, Arena& arena,
                        const QuantizeContext& context = {}) {
  return quantize(Tensor::of(x.data(), {rows, static_cast<std::int64_t>(x.size()) / rows}), spec, context, arena);
}

/// A million Gaussian numbers with the largest set to 5.4, about what a tensor of a hundred million has.
inline const std::vector<float>& gaussian_million() {
  static const std::vector<float> x = [] {
    std::vector<float> v = reference::gaussian(256 * 4096, 20260);
    for (float& value : v) value = std::clamp(value, -5.4f, 5.4f);
    v[77] = 5.4f;
    return v;
  }();
  return x;
}

inline QuantQuality quality_of(const std::vector<float>& x, std::int64_t rows, const QuantSpec& spec,
                               std::uint64_t seed = 99) {
  const Tensor tensor = Tensor::of(x.data(), {rows, static_cast<std::int64_t>(x.size()) / rows});
  QuantizeContext context;
  context.random.seed = seed;
  context.signs.seed = seed + 1;
  Arena arena;
  return measure_quality(tensor, quantize(tensor, spec, context, arena), spec, context, arena);
}
inline QuantQuality gaussian_quality(const QuantSpec& spec) { return quality_of(gaussian_million(), 256, spec); }

/// 1 - <x, Q(x)> / <x, x>
inline double misalignment(const QuantQuality& q) { return 1 - q.dot / q.signal; }

/// The mean of f(quality) over an octave of standard deviations.
template <class F>
double octave_mean(const QuantSpec& spec, F f) {
  constexpr int kSteps = 16;
  static const std::vector<float> unit = reference::gaussian(kSteps * 64 * 1024, 300);
  double sum = 0;
  for (int i = 0; i < kSteps; ++i) {
    std::vector<float> x(unit.begin() + i * 64 * 1024, unit.begin() + (i + 1) * 64 * 1024);
    for (float& v : x) v *= std::exp2(static_cast<float>(i) / kSteps);
    sum += f(quality_of(x, 64, spec));
  }
  return sum / kSteps;
}

inline void expect_within(double got, double want, double share, const char* what) {
  EXPECT_GT(got, want - std::abs(want) * share) << what;
  EXPECT_LT(got, want + std::abs(want) * share) << what;
}

}  // namespace nibble
