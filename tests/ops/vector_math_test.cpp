#include "nibble/ops/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "nibble/tensor/simd.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

NIBBLE_SIMD void exp_loop(const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = exp_approx(x[i]);
}

// Not vectorised: one call at a time behind a barrier.
float exp_single(float x) {
  volatile float barrier = x;
  return exp_approx(barrier);
}

// Every 499th float, of either sign, NaNs left out.
std::vector<float> sample_of_all_floats() {
  std::vector<float> x;
  for (std::uint64_t u = 0; u < (std::uint64_t{1} << 32); u += 499) {
    const float v = bits_float(static_cast<std::uint32_t>(u));
    if (!float_is_nan(v)) x.push_back(v);
  }
  return x;
}

TEST(VectorMath, ExpIsWithinOneUlpOfTheExponentialOnAllFloats) {
  const std::vector<float> x = sample_of_all_floats();
  std::vector<float> y(x.size());
  exp_loop(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  double worst = 0;
  float worst_at = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    if (want > static_cast<double>(std::numeric_limits<float>::max())) {
      // Just below infinity a result within one ulp may be either.
      ASSERT_TRUE(y[i] == kInfinity || (want < 0x1.000001p128 && y[i] == std::numeric_limits<float>::max()))
          << "x = " << x[i];
      continue;
    }
    const int exponent = want > 0 ? std::max(std::ilogb(want), -126) : -126;
    const double error = std::fabs(static_cast<double>(y[i]) - want) / std::ldexp(1.0, exponent - 23);
    ASSERT_FALSE(std::isnan(error)) << "x = " << x[i];
    if (error > worst) {
      worst = error;
      worst_at = x[i];
    }
  }
  EXPECT_LT(worst, 1.0) << "at x = " << worst_at;
}

TEST(VectorMath, AVectorisedLoopGivesTheBitsOfASingleCall) {
  std::vector<float> x;
  for (float v = -110.0f; v < 95.0f; v += 0.0037f) x.push_back(v);
  std::vector<float> y(x.size());
  exp_loop(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(float_bits(y[i]), float_bits(exp_single(x[i]))) << "x = " << x[i];
  }
}

TEST(VectorMath, ExpOfSpecialValues) {
  EXPECT_EQ(exp_approx(0.0f), 1.0f);
  EXPECT_EQ(exp_approx(-0.0f), 1.0f);
  EXPECT_EQ(exp_approx(-kInfinity), 0.0f);
  EXPECT_EQ(exp_approx(kInfinity), kInfinity);
  EXPECT_EQ(exp_approx(-std::numeric_limits<float>::max()), 0.0f);
  EXPECT_EQ(exp_approx(std::numeric_limits<float>::max()), kInfinity);
  EXPECT_EQ(exp_approx(89.0f), kInfinity);
  EXPECT_EQ(exp_approx(-104.0f), 0.0f);
  EXPECT_TRUE(std::isnan(exp_approx(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMath, SigmoidIsAccurateWhereItIsNormal) {
  for (float x = -87.0f; x < 40.0f; x += 0.0113f) {
    const double want = 1.0 / (1.0 + std::exp(-static_cast<double>(x)));
    ASSERT_NEAR(sigmoid_approx(x), want, 3e-7 * want) << "x = " << x;
  }
}

TEST(VectorMath, SigmoidSaturatesAtZeroAndOne) {
  for (const float x : {100.0f, 1e30f, std::numeric_limits<float>::max(), kInfinity}) {
    EXPECT_EQ(sigmoid_approx(x), 1.0f) << "x = " << x;
    EXPECT_EQ(sigmoid_approx(-x), 0.0f) << "x = " << -x;
  }
}

}  // namespace
}  // namespace nibble
