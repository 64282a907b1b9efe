#include "nibble/scaling/huber.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace nibble {
namespace {

TEST(Huber, IsQuadraticInsideDeltaAndLinearOutside) {
  EXPECT_DOUBLE_EQ(huber(0.5, 2), 0.125);
  EXPECT_DOUBLE_EQ(huber(-2, 2), 2);
  EXPECT_DOUBLE_EQ(huber(5, 2), 2 * (5 - 1));
  EXPECT_DOUBLE_EQ(huber(-5, 2), 8);
}

TEST(Huber, TheBestConstantForATinyDeltaIsTheMedian) {
  const std::vector<double> data = {3, -7, 100, 4, 5, 1e6, 3.5};
  const auto residuals = [&](std::span<const double> theta, std::span<double> r, std::span<double> J) {
    for (std::size_t i = 0; i < data.size(); ++i) {
      r[i] = theta[0] - data[i];
      if (!J.empty()) J[i] = 1;
    }
  };
  for (const double start : {-1e4, 0.0, 4.0, 1e5}) {
    const HuberFit fit = minimise_huber(residuals, data.size(), {start}, 1e-6);
    EXPECT_TRUE(fit.converged);
    EXPECT_NEAR(fit.theta[0], 4, 1e-5) << "from " << start;
  }
}

TEST(Huber, WithALargeDeltaItSolvesLeastSquares) {
  // Rosenbrock's valley: r = (10 (y - x^2), 1 - x), minimum 0 at (1, 1).
  const auto residuals = [](std::span<const double> t, std::span<double> r, std::span<double> J) {
    r[0] = 10 * (t[1] - t[0] * t[0]);
    r[1] = 1 - t[0];
    if (J.empty()) return;
    J[0] = -20 * t[0];
    J[1] = 10;
    J[2] = -1;
    J[3] = 0;
  };
  const HuberFit fit = minimise_huber(residuals, 2, {-1.2, 1}, 1e6, 1000);
  EXPECT_NEAR(fit.theta[0], 1, 1e-6);
  EXPECT_NEAR(fit.theta[1], 1, 1e-6);
}

// A line through points of which some are far off: no other line that goes through two points (where the minimum of a
// sum of absolute values lies) is better.
TEST(Huber, TheBestLineForATinyDeltaIsTheBestOfAllThroughTwoPoints) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    std::normal_distribution<double> normal;
    constexpr std::size_t kPoints = 15;
    constexpr double kDelta = 1e-7;
    std::vector<double> x(kPoints);
    std::vector<double> y(kPoints);
    for (std::size_t i = 0; i < kPoints; ++i) {
      x[i] = normal(rng);
      y[i] = 2 * x[i] - 1 + 0.01 * normal(rng) + (i % 5 == 0 ? 3 * normal(rng) : 0);
    }
    const auto residuals = [&](std::span<const double> t, std::span<double> r, std::span<double> J) {
      for (std::size_t i = 0; i < kPoints; ++i) {
        r[i] = t[0] * x[i] + t[1] - y[i];
        if (J.empty()) continue;
        J[2 * i] = x[i];
        J[2 * i + 1] = 1;
      }
    };
    const auto objective = [&](double slope, double offset) {
      double sum = 0;
      for (std::size_t i = 0; i < kPoints; ++i) sum += huber(slope * x[i] + offset - y[i], kDelta);
      return sum;
    };
    double best = 1e300;
    for (std::size_t i = 0; i < kPoints; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const double slope = (y[i] - y[j]) / (x[i] - x[j]);
        best = std::min(best, objective(slope, y[i] - slope * x[i]));
      }
    }
    const HuberFit fit = minimise_huber(residuals, kPoints, {0, 0}, kDelta);
    EXPECT_TRUE(fit.converged);
    EXPECT_NEAR(fit.objective, objective(fit.theta[0], fit.theta[1]), 1e-15);
    EXPECT_LE(fit.objective, best * (1 + 1e-6));
  }
}

TEST(Huber, AParameterWithoutInfluenceStaysWhereItStarted) {
  const auto residuals = [](std::span<const double> t, std::span<double> r, std::span<double> J) {
    r[0] = t[0] - 2;
    if (J.empty()) return;
    J[0] = 1;
    J[1] = 0;
  };
  const HuberFit fit = minimise_huber(residuals, 1, {0, 7}, 1e-4);
  EXPECT_NEAR(fit.theta[0], 2, 1e-9);
  EXPECT_EQ(fit.theta[1], 7);
}

}  // namespace
}  // namespace nibble
