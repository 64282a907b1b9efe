#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

QuantSpec row_e2m1() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  return spec;
}

TEST(Quality, SumsAreThoseOfTheDefinition) {
  constexpr std::int64_t kRows = 203;
  constexpr std::int64_t kCols = 301;
  std::vector<float> x = reference::gaussian(kRows * kCols, 2);
  x[5] = 0;
  std::vector<float> fold(kCols, 2.0f);
  QuantizeContext context;
  context.col_fold = Tensor::of(fold.data(), {kCols});
  for (const bool sparse : {true, false}) {
    QuantSpec spec = row_e2m1();
    spec.clamp = {0.98, true, sparse ? ResidualMode::Sparse : ResidualMode::None};
    Arena arena;
    const Tensor tensor = Tensor::of(x.data(), {kRows, kCols});
    const QTensor q = quantize(tensor, spec, context, arena);
    const QuantQuality got = measure_quality(tensor, q, spec, context, arena);
    const reference::Result want = reference::quantize(x, kRows, kCols, spec, context);
    double signal = 0, noise = 0, dot = 0, quantised = 0;
    std::int64_t underflow = 0, clamped = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double y = want.y[i];
      const float residual = sparse ? want.y[i] - want.clamped[i] : 0.0f;
      const double v = static_cast<double>(want.values[i] + residual);
      signal += y * y;
      noise += (y - v) * (y - v);
      dot += y * v;
      quantised += v * v;
      underflow += y != 0 && v == 0 ? 1 : 0;
      clamped += want.y[i] != want.clamped[i] ? 1 : 0;
    }
    EXPECT_NEAR(got.signal, signal, 1e-12 * signal);
    EXPECT_NEAR(got.noise, noise, 1e-12 * signal);
    EXPECT_NEAR(got.dot, dot, 1e-12 * signal);
    EXPECT_NEAR(got.quantised, quantised, 1e-12 * signal);
    EXPECT_EQ(got.underflow, underflow);
    EXPECT_EQ(got.clamped, clamped);
    EXPECT_EQ(got.count, kRows * kCols);
    EXPECT_NEAR(got.snr_db(), 10 * std::log10(signal / noise), 1e-9);
    EXPECT_NEAR(got.cosine(), dot / std::sqrt(signal * quantised), 1e-12);
    EXPECT_NEAR(got.clamped_share(), static_cast<double>(clamped) / (kRows * kCols), 1e-15);
  }
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
