// LUQ: logarithmic unbiased rounding of gradients to E3M0, SAWB clipping of weights and activations to Int4.
#include <set>

#include "tests/quant/measure.h"

namespace nibble {
namespace {

QuantSpec luq(int log_steps = 6) {
  QuantSpec spec = quantiser(ElementFormat::E3M0, Granularity::per_tensor(), ScaleRule::Absmax, Rounding::Stochastic);
  spec.log_steps = log_steps;
  return spec;
}

TEST(Luq, ValuesAreZeroOrThePowersOfTwoBelowTheLargest) {
  for (const int log_steps : {4, 6}) {
    const std::vector<float> x = reference::gaussian(40000, 6);
    float amax = 0;
    for (const float v : x) amax = std::max(amax, std::abs(v));
    Arena arena;
    const QTensor q = quantise(x, 100, luq(log_steps), arena);
    const float alpha = std::ldexp(amax / 16 * 16, -log_steps);
    std::set<float> magnitudes;
    for (const float v : values_of(q)) magnitudes.insert(std::abs(v));
    ASSERT_EQ(magnitudes.size(), static_cast<std::size_t>(log_steps) + 2);
    EXPECT_EQ(*magnitudes.begin(), 0.0f);
    int step = 0;
    for (auto m = std::next(magnitudes.begin()); m != magnitudes.end(); ++m, ++step) {
      EXPECT_NEAR(*m, std::ldexp(alpha, step), 1e-6f * *m);
    }
  }
}

TEST(Luq, IsUnbiasedForEveryMagnitudeUpToTheLargest) {
  // Sixteen magnitudes a row, the largest first; the mean over the rows comes back.
  constexpr std::int64_t kRows = 40000;
  const std::vector<float> row = {1,     .9f,  .75f, .6f,   .5f,   .4f,   .3f,    .2f,
                                  -.13f, .07f, .03f, .016f, .012f, .008f, -.004f, .001f};
  std::vector<float> x;
  for (std::int64_t r = 0; r < kRows; ++r) x.insert(x.end(), row.begin(), row.end());
  for (const int log_steps : {1, 4, 6}) {
    Arena arena;
    const std::vector<float> values = values_of(quantise(x, kRows, luq(log_steps), arena));
    const double alpha = std::ldexp(1.0, -log_steps);
    for (std::size_t c = 0; c < 16; ++c) {
      double sum = 0;
      for (std::int64_t r = 0; r < kRows; ++r) sum += static_cast<double>(values[static_cast<std::size_t>(r) * 16 + c]);
      const double a = std::abs(static_cast<double>(row[c]));
      const double lo = a < alpha ? 0 : std::exp2(std::floor(std::log2(a)));
      const double hi = a < alpha ? alpha : 2 * lo;
      const double deviation = std::sqrt(std::max(0.0, (a - lo) * (hi - a)) / kRows);
      EXPECT_NEAR(sum / kRows, static_cast<double>(row[c]), 5 * deviation + 1e-7)
          << "m " << log_steps << " column " << c;
    }
  }
}

TEST(Luq, GaussianErrorsAreTheTabledOnes) {
  expect_within(gaussian_quality(luq(6)).relative_mse(), 8.2e-2, 0.02, "m = 6");
  expect_within(gaussian_quality(luq(4)).relative_mse(), 8.6e-2, 0.02, "m = 4");
  EXPECT_NEAR(misalignment(gaussian_quality(luq(6))), 0, 1e-3);
}

TEST(Sawb, TheClipIsTheFittedCombinationOfTheMoments) {
  const std::vector<float> x = reference::gaussian(64 * 1024, 9, 0.3f);
  double square = 0, magnitude = 0;
  for (const float v : x) {
    square += static_cast<double>(v) * static_cast<double>(v);
    magnitude += std::abs(static_cast<double>(v));
  }
  const double n = static_cast<double>(x.size());
  const double clip = 12.68 * std::sqrt(square / n) - 12.80 * magnitude / n;
  Arena arena;
  const QTensor q = quantise(x, 64, quantiser(ElementFormat::Int4, Granularity::per_tensor(), ScaleRule::Sawb), arena);
  EXPECT_NEAR(7 * static_cast<double>(q.scale_at(0, 0)), clip, 1e-4 * clip);
  for (std::int64_t i = 0; i < 1024; ++i) {
    const double v = x[static_cast<std::size_t>(i)];
    const double s = q.scale_at(0, i);
    EXPECT_LE(std::abs(static_cast<double>(q.value_at(0, i)) - std::clamp(v, -7 * s, 7 * s)), 0.5001 * s) << v;
  }
}

TEST(Sawb, BeatsTheAbsoluteMaximumOnGaussianNumbers) {
  const QuantSpec sawb = quantiser(ElementFormat::Int4, Granularity::per_tensor(), ScaleRule::Sawb);
  const QuantSpec absmax = quantiser(ElementFormat::Int4, Granularity::per_tensor(), ScaleRule::Absmax);
  const QuantQuality clipped = gaussian_quality(sawb);
  EXPECT_GT(clipped.clipped, 0);
  EXPECT_LT(clipped.relative_mse(), 0.6 * gaussian_quality(absmax).relative_mse());
}

TEST(Sawb, NumbersOfOneMagnitudeFallBackToTheMaximum) {
  // The fitted clip of +-c is negative.
  Arena arena;
  const std::vector<float> x = {.7f, -.7f, .7f, .7f};
  const QTensor q = quantise(x, 1, quantiser(ElementFormat::Int4, Granularity::per_tensor(), ScaleRule::Sawb), arena);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_NEAR(q.value_at(0, i), x[static_cast<std::size_t>(i)], 1e-6);
}

}  // namespace
}  // namespace nibble
