#include "nibble/report/curves.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace nibble {
namespace {

RunLog run_of(const std::vector<std::pair<std::int64_t, double>>& losses,
              const std::vector<std::pair<std::int64_t, double>>& validation = {}) {
  RunLog run;
  for (const auto& [step, loss] : losses) run.steps.push_back({.step = step, .loss = loss});
  for (const auto& [step, loss] : validation) run.validation.push_back({step, loss});
  return run;
}

TEST(Smooth, AgreesWithTheDefinition) {
  constexpr unsigned kSeed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  std::uniform_real_distribution<double> uniform(1, 9);
  std::vector<double> values(101);
  for (double& value : values) value = uniform(random);
  values[40] = NAN;
  values[77] = INFINITY;
  for (std::size_t half : {0, 1, 5, 200}) {
    const std::vector<double> smoothed = smooth(values, half);
    for (std::size_t i = 0; i < values.size(); ++i) {
      double sum = 0;
      int count = 0;
      for (std::size_t j = 0; j < values.size(); ++j) {
        if (std::max(i, j) - std::min(i, j) > half || !std::isfinite(values[j])) continue;
        sum += values[j];
        ++count;
      }
      if (std::isfinite(values[i])) {
        EXPECT_NEAR(smoothed[i], sum / count, 1e-12) << i;
      } else {
        EXPECT_TRUE(std::isnan(smoothed[i])) << "a line must show where the loss was not finite";
      }
    }
  }
}

TEST(Smooth, OfNothingIsNothing) { EXPECT_TRUE(smooth({}, 3).empty()); }

TEST(TrainingGap, IsPerCentOfTheBaselineAtCommonSteps) {
  const RunLog base = run_of({{1, 8}, {2, 4}, {4, 2}});
  const RunLog run = run_of({{1, 8}, {2, 5}, {3, 4}, {4, 3}, {5, 3}});
  const Curve gap = training_gap(run, {&base});
  EXPECT_EQ(gap.x, (std::vector<double>{1, 2, 4}));
  EXPECT_EQ(gap.y, (std::vector<double>{0, 25, 50}));
}

TEST(TrainingGap, TakesTheMeanOfSeveralBaselines) {
  const RunLog a = run_of({{1, 3}});
  const RunLog b = run_of({{1, 5}});
  EXPECT_EQ(training_gap(run_of({{1, 5}}), {&a, &b}).y, std::vector<double>{25});
}

TEST(TrainingGap, CancelsTheNoiseOfTheBatches) {
  constexpr unsigned kSeed = 5;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  std::normal_distribution<double> batch(0, 0.2);
  RunLog base, run;
  for (int step = 1; step <= 400; ++step) {
    const double loss = 4 + batch(random);
    base.steps.push_back({.step = step, .loss = loss});
    run.steps.push_back({.step = step, .loss = 1.02 * loss});
  }
  for (double gap : training_gap(run, {&base}).y) EXPECT_NEAR(gap, 2, 1e-9);
}

TEST(TrainingGap, IsEmptyWithoutABaseline) { EXPECT_TRUE(training_gap(run_of({{1, 5}}), {}).x.empty()); }

TEST(ValidationGap, IsNotSmoothed) {
  const RunLog base = run_of({}, {{10, 4}, {20, 2}});
  const RunLog run = run_of({}, {{10, 5}, {20, 2}, {30, 1}});
  const Curve gap = validation_gap(run, {&base});
  EXPECT_EQ(gap.x, (std::vector<double>{10, 20}));
  EXPECT_EQ(gap.y, (std::vector<double>{25, 0}));
}

TEST(NoiseCurve, IsTheSpreadOfTheSeeds) {
  const RunLog a = run_of({{1, 9}}, {{10, 4.1}, {20, 2.05}});
  const RunLog b = run_of({{1, 5}}, {{10, 3.9}, {20, 1.95}});
  const Curve noise = noise_curve({&a, &b});
  EXPECT_EQ(noise.x, (std::vector<double>{10, 20}));
  EXPECT_NEAR(noise.y[0], 5, 1e-9);
  EXPECT_NEAR(noise.y[1], 5, 1e-9);
}

TEST(NoiseCurve, DoesNotVanishWhereTwoSeedsCross) {
  const RunLog a = run_of({}, {{10, 4.1}, {20, 4.0}, {30, 3.9}});
  const RunLog b = run_of({}, {{10, 3.9}, {20, 4.0}, {30, 4.1}});
  EXPECT_NEAR(noise_curve({&a, &b}).y[1], std::sqrt((25.0 + 0 + 25) / 3), 1e-9);
}

TEST(NoiseCurve, FallsBackToTrainingLosses) {
  const RunLog a = run_of({{1, 4.1}, {2, 4.1}});
  const RunLog b = run_of({{1, 3.9}, {2, 3.9}});
  EXPECT_NEAR(noise_curve({&a, &b}).y[0], 5, 1e-9);
  EXPECT_TRUE(noise_curve({&a}).x.empty());
}

TEST(Thin, KeepsBothEnds) {
  Curve curve;
  for (int i = 0; i < 1000; ++i) {
    curve.x.push_back(i);
    curve.y.push_back(-i);
  }
  const Curve thinned = thin(curve, 50);
  ASSERT_EQ(thinned.x.size(), 50u);
  EXPECT_EQ(thinned.x.front(), 0);
  EXPECT_EQ(thinned.x.back(), 999);
  EXPECT_EQ(thinned.y.back(), -999);
  EXPECT_EQ(thin(curve, 5000).x.size(), 1000u);
}

}  // namespace
}  // namespace nibble
