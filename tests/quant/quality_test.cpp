#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "nibble/quant/quantize.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

QuantSpec row_e2m1() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  return spec;
}

/// The definition, element by element.
QuantQuality by_definition(const reference::Result& want, const std::vector<float>& exact, const QuantSpec& spec,
                           bool residual) {
  QuantQuality q;
  const float max = element_max(spec.element);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double y = exact[i];
    const double v = static_cast<double>(want.values[i] + (residual ? want.y[i] - want.clamped[i] : 0.0f));
    q.signal += y * y;
    q.noise += (y - v) * (y - v);
    q.dot += y * v;
    q.quantised += v * v;
    q.error += v - y;
    q.magnitude += std::abs(y);
    q.underflow += y != 0 && v == 0 ? 1 : 0;
    q.clamped += want.y[i] != want.clamped[i] ? 1 : 0;
    const double limit = static_cast<double>(max) * static_cast<double>(want.block_scale[i]) *
                         static_cast<double>(want.outer_scale[i]) * static_cast<double>(want.tensor_scale);
    q.clipped += max > 0 && std::abs(static_cast<double>(want.clamped[i])) > limit * (1 + 1e-6) ? 1 : 0;
  }
  return q;
}

TEST(Quality, SumsAreThoseOfTheDefinition) {
  constexpr std::int64_t kRows = 80;
  constexpr std::int64_t kCols = 208;
  std::uint64_t seed = 0;
  for (Case c : cases()) {
    c.spec.transposed = ++seed % 2 == 0;
    if (seed % 3 == 0) c.spec.hadamard = {16, Hadamard::Signs::Call, false};
    SCOPED_TRACE(testing::Message() << c.name << ", seed " << seed);
    std::vector<float> x = reference::gaussian(kRows * kCols, seed);
    x[5] = 0;
    const Tensor tensor = Tensor::of(x.data(), {kRows, kCols});
    const CaseContext given = case_context(c, tensor, seed);
    Arena arena;
    const QTensor q = quantize(tensor, c.spec, given.context, arena);
    const QuantQuality got = measure_quality(tensor, q, c.spec, given.context, arena);
    const reference::Result result = reference::quantize(x, kRows, kCols, c.spec, given.context);
    QuantSpec unrounded = c.spec;
    unrounded.bf16_input = false;
    const std::vector<float> exact = reference::quantize(x, kRows, kCols, unrounded, given.context).y;
    const QuantQuality want = by_definition(result, exact, c.spec, q.residual.defined());
    EXPECT_NEAR(got.signal, want.signal, 1e-12 * want.signal);
    EXPECT_NEAR(got.noise, want.noise, 1e-12 * want.signal);
    EXPECT_NEAR(got.dot, want.dot, 1e-12 * want.signal);
    EXPECT_NEAR(got.quantised, want.quantised, 1e-12 * want.signal);
    EXPECT_NEAR(got.error, want.error, 1e-12 * want.magnitude);
    EXPECT_NEAR(got.magnitude, want.magnitude, 1e-12 * want.magnitude);
    EXPECT_EQ(got.underflow, want.underflow);
    EXPECT_EQ(got.clamped, want.clamped);
    EXPECT_EQ(got.clipped, want.clipped);
    EXPECT_EQ(got.count, kRows * kCols);
    EXPECT_EQ(got.blocks, q.scale_format == ScaleFormat::None ? 0 : q.scales.numel());
    EXPECT_NEAR(got.bias(), want.error / want.magnitude, 1e-12);
    if (want.noise > 0) {
      EXPECT_NEAR(got.snr_db(), 10 * std::log10(want.signal / want.noise), 1e-9);
    }
    EXPECT_NEAR(got.cosine(), want.dot / std::sqrt(want.signal * want.quantised), 1e-12);
    EXPECT_NEAR(got.clamped_share(), static_cast<double>(want.clamped) / (kRows * kCols), 1e-15);
  }
}

TEST(Quality, ScalesThatDoNotFitTheirBlockAreCounted) {
  // Blocks of 16: the tensor's largest, one far below it, zeros, one in between.
  std::vector<float> x(64, 0.0f);
  x[0] = 4;
  x[20] = 1e-6f;
  x[60] = 0.5f;
  const Tensor tensor = Tensor::of(x.data(), {1, 64});
  for (const double zero_scale : {0.0, 0x1p-9, 1.0}) {
    QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
    spec.nvfp4.zero_scale = zero_scale;
    Arena arena;
    const QuantQuality q = measure_quality(tensor, quantize(tensor, spec, {}, arena), spec, {}, arena);
    EXPECT_EQ(q.blocks, 4);
    EXPECT_EQ(q.scale_underflow, 1) << zero_scale;
    EXPECT_EQ(q.scale_saturated, 0);
    EXPECT_EQ(q.underflow, zero_scale == 0x1p-9 ? 0 : 1);  // 2^-9 is near enough to the scale that is wanted
    EXPECT_EQ(q.clipped, zero_scale == 0 ? 1 : 0);
  }
  // A val_max above 6 leaves the largest block of the tensor more than its scale, the largest, can hold.
  QuantSpec tight = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
  for (const double val_max : {6.0, 8.0}) {
    tight.nvfp4.val_max = val_max;
    Arena arena;
    EXPECT_EQ(measure_quality(tensor, quantize(tensor, tight, {}, arena), tight, {}, arena).scale_saturated,
              val_max == 6 ? 0 : 1);
  }
  Arena arena;
  // E8M0 cannot reach below 2^-127.
  std::vector<float> tiny(32, 1e-39f);
  const Tensor small = Tensor::of(tiny.data(), {1, 32});
  const QuantSpec ceil = quantiser(ElementFormat::E2M1, Granularity::block(1, 32), ScaleRule::Ceil6);
  EXPECT_EQ(measure_quality(small, quantize(small, ceil, {}, arena), ceil, {}, arena).scale_underflow, 1);
}

TEST(Quality, TensorClampsAreCountedWhereTheResidualIsDropped) {
  std::vector<float> x = reference::gaussian(50 * 100, 3);
  QuantSpec spec = row_e2m1();
  spec.clamp = {0.9, false, ResidualMode::None};
  Arena arena;
  const Tensor tensor = Tensor::of(x.data(), {50, 100});
  const QuantQuality quality = measure_quality(tensor, quantize(tensor, spec, {}, arena), spec, {}, arena);
  EXPECT_NEAR(static_cast<double>(quality.clamped), 0.2 * 5000, 2);
}

TEST(Quality, BitsDoNotDependOnTheNumberOfThreads) {
  std::vector<float> x = reference::gaussian(517 * 333, 4);
  const Tensor tensor = Tensor::of(x.data(), {517, 333});
  Arena arena;
  const QTensor q = quantize(tensor, row_e2m1(), {}, arena);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const QuantQuality one = measure_quality(tensor, q, row_e2m1(), {}, arena);
  omp_set_num_threads(3);
  const QuantQuality three = measure_quality(tensor, q, row_e2m1(), {}, arena);
  omp_set_num_threads(before);
  EXPECT_EQ(one.noise, three.noise);
  EXPECT_EQ(one.signal, three.signal);
  EXPECT_EQ(one.dot, three.dot);
}

TEST(Quality, AnExactCopyHasNoNoiseAndInfiniteSnr) {
  std::vector<float> x = {0.5f, -6, 1.5f, 0};
  Arena arena;
  const Tensor tensor = Tensor::of(x.data(), {1, 4});
  const QuantQuality quality = measure_quality(tensor, quantize(tensor, row_e2m1(), {}, arena), row_e2m1(), {}, arena);
  EXPECT_EQ(quality.noise, 0);
  EXPECT_TRUE(std::isinf(quality.snr_db()));
  EXPECT_EQ(quality.relative_mse(), 0);
  EXPECT_DOUBLE_EQ(quality.cosine(), 1);
  EXPECT_EQ(quality.underflow, 0);
}

}  // namespace
}  // namespace nibble
