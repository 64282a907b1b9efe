#include "nibble/train/gradient_scaling.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

TEST(GradientScaling, BySqrtIsTheRootOfTheRanksWhateverSaturates) {
  GradientScaling scaling(ExchangeScaling::Sqrt, 3);
  scaling.after_step(1);
  EXPECT_EQ(scaling.divisor(), std::sqrt(3.0f));
  EXPECT_FALSE(scaling.adapts());
}

TEST(GradientScaling, AutoDoublesInAThousandStepsUpToOneAndHalvesWhereMoreThanOneIn100000Saturates) {
  GradientScaling scaling(ExchangeScaling::Auto, 16);
  EXPECT_DOUBLE_EQ(scaling.factor(), 0.25);
  EXPECT_FLOAT_EQ(scaling.divisor(), 4);
  for (int i = 0; i < 1000; ++i) scaling.after_step(1e-5);
  EXPECT_NEAR(scaling.factor(), 0.5, 1e-12);
  for (int i = 0; i < 1200; ++i) scaling.after_step(0);
  EXPECT_EQ(scaling.factor(), 1);
  EXPECT_EQ(scaling.divisor(), 1);
  scaling.after_step(1.1e-5);
  EXPECT_EQ(scaling.factor(), 0.5);
  EXPECT_EQ(scaling.divisor(), 2);
}

TEST(GradientScaling, GoesOnFromAFactor) {
  GradientScaling scaling(ExchangeScaling::Auto, 2);
  scaling.restore(0.3);
  scaling.after_step(0);
  EXPECT_DOUBLE_EQ(scaling.factor(), 0.3 * std::exp2(1e-3));
}

}  // namespace
}  // namespace nibble
