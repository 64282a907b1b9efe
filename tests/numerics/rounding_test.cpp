// The rounding rules as published: the tie table, and what stochastic rounding promises about its distribution.
#include "nibble/numerics/rounding.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

#include "nibble/numerics/e2m1.h"
#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

TEST(Rounding, MidpointsRoundAsInThePublishedTieTable) {
  constexpr std::array<float, 7> kMidpoints = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  constexpr std::array<float, 7> kBelow = {0, 0.5f, 1, 1.5f, 2, 3, 4};
  constexpr std::array<float, 7> kAbove = {0.5f, 1, 1.5f, 2, 3, 4, 6};
  constexpr std::array<float, 7> kEven = {0, 1, 1, 2, 2, 4, 4};
  for (std::size_t i = 0; i < kMidpoints.size(); ++i) {
    const float x = kMidpoints[i];
    SCOPED_TRACE(x);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Even>(x)), kEven[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Even>(-x)), -kEven[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Up>(x)), kAbove[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Up>(-x)), -kBelow[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Zero>(x)), kBelow[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Zero>(-x)), -kBelow[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Away>(x)), kAbove[i]);
    EXPECT_EQ(e2m1_decode(e2m1_encode<Tie::Away>(-x)), -kAbove[i]);
  }
}

TEST(Rounding, ZeroKeepsItsSignExceptUnderTieUp) {
  EXPECT_EQ(e2m1_encode<Tie::Even>(-0.25f), 8);
  EXPECT_EQ(e2m1_encode<Tie::Zero>(-0.25f), 8);
  EXPECT_EQ(e2m1_encode<Tie::Up>(-0.25f), 0);
  EXPECT_EQ(e2m1_encode<Tie::Up>(-0.0f), 0);
  EXPECT_EQ(e2m1_encode<Tie::Away>(-0.2f), 8);
  EXPECT_EQ(e2m1_encode<Tie::Even>(-0.0f), 8);
}

TEST(Rounding, OnlyTheStochasticRulesAndEdenUseRandomNumbers) {
  for (Rounding r : {Rounding::Stochastic, Rounding::Stochastic8, Rounding::Eden}) EXPECT_TRUE(is_stochastic(r));
  for (Rounding r : {Rounding::NearestEven, Rounding::NearestUp, Rounding::NearestZero, Rounding::NearestAway,
                     Rounding::Reference}) {
    EXPECT_FALSE(is_stochastic(r));
  }
}

// All BF16 values, and floats with full mantissas within the range of the format.
std::vector<float> sample_values() {
  std::vector<float> values = oracle::all_bf16();
  std::erase_if(values, [](float x) { return std::isnan(x); });
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-7.0f, 7.0f);
  for (int i = 0; i < 4000; ++i) values.push_back(uniform(random));
  const std::vector<float> edges = oracle::around_midpoints(oracle::e2m1_magnitudes());
  values.insert(values.end(), edges.begin(), edges.end());
  return values;
}

// Neighbours of |x| on the grid: code of the lower one, and the exact position between them.
struct Position {
  int below;
  double p;
};
Position position(double x) {
  const std::vector<double> grid = oracle::e2m1_magnitudes();
  const double a = std::min(std::abs(x), 6.0);
  int below = 0;
  while (below < 7 && grid[static_cast<std::size_t>(below) + 1] <= a) ++below;
  if (below == 7) return {7, 0};
  const double lo = grid[static_cast<std::size_t>(below)];
  return {below, (a - lo) / (grid[static_cast<std::size_t>(below) + 1] - lo)};
}

TEST(StochasticRounding, RoundsUpForExactlyTheRandomNumbersBelowTheProbability) {
  for (float x : sample_values()) {
    const Position at = position(x);
    const int sign = std::signbit(x) ? 8 : 0;
    // up iff r / 2^24 < p: for the r in [0, ups)
    const auto ups = static_cast<std::uint32_t>(std::ceil(at.p * 0x1p24));
    const auto code = [&](std::uint32_t r) { return static_cast<int>(e2m1_encode_stochastic(x, r)); };
    if (ups > 0) {
      ASSERT_EQ(code(0), (at.below + 1) | sign) << x;
      ASSERT_EQ(code(ups - 1), (at.below + 1) | sign) << x;
    }
    if (ups < (1u << 24)) {
      ASSERT_EQ(code(ups), at.below | sign) << x;
      ASSERT_EQ(code(0xFF'FFFFu), at.below | sign) << x;
    }
  }
}

TEST(StochasticRounding, UsesTheLow24BitsOfTheWord) {
  EXPECT_EQ(e2m1_encode_stochastic(0.25f, 0xFF00'0000u), 1);  // u = 0 < 0.5
  EXPECT_EQ(e2m1_encode_stochastic(0.25f, 0x0080'0000u), 0);  // u = 0.5
}

double step_of(double a) { return a < 2 ? 0.5 : a < 4 ? 1.0 : 2.0; }

TEST(StochasticRounding8, EqualsThePublishedFormulaForAllBytes) {
  for (float x : sample_values()) {
    const float a = std::abs(x);
    for (std::uint32_t r = 0; r < 256; ++r) {
      const double t = std::fma(static_cast<float>(r) / 256.0f, static_cast<float>(step_of(a)), a);  // one rounding
      const double q = std::min(std::floor(t / step_of(t)) * step_of(t), 6.0);
      const std::uint8_t code = e2m1_encode_stochastic8(x, r);
      ASSERT_EQ(std::abs(e2m1_decode(code)), q) << "x = " << x << ", r = " << r;
      ASSERT_EQ((code & 8) != 0, std::signbit(x)) << "x = " << x << ", r = " << r;
    }
  }
}

TEST(StochasticRounding8, TheMeanIsLowByAtMostA256thOfAStep) {
  for (float x : sample_values()) {
    if (std::abs(x) > 6.0f) continue;
    double mean = 0;
    for (std::uint32_t r = 0; r < 256; ++r) mean += std::abs(e2m1_decode(e2m1_encode_stochastic8(x, r))) / 256.0;
    const double deficit = std::abs(static_cast<double>(x)) - mean;
    const double unit = step_of(std::abs(x)) / 256;
    // The sum |x| + r/256 step rounds to float, which can move a border by half an ulp of 8.
    ASSERT_GE(deficit, -unit * 0x1p-12) << x;
    ASSERT_LE(deficit, unit) << x;
    if (std::fmod(std::abs(x), unit) == 0) {
      ASSERT_EQ(deficit, 0) << x;
    }
  }
}

}  // namespace
}  // namespace nibble
