#include "nibble/numerics/e3m0.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

static_assert(e3m0_encode<Tie::Even>(3.0f) == 4 && e3m0_encode<Tie::Zero>(-16.0f) == 15);
static_assert(e3m0_decode(1) == 0.25f && e3m0_decode(15) == -16.0f && e3m0_least(4) == 1.0f);

/// Zero and 16 / 2^m to 16: the code of entry i > 0 is i + 6 - m.
std::vector<double> magnitudes(int m) {
  std::vector<double> grid = {0};
  for (int i = m; i >= 0; --i) grid.push_back(16 / std::ldexp(1.0, i));
  return grid;
}
int code_of(int entry, int m) { return entry == 0 ? 0 : entry + 6 - m; }

/// By search; a tie goes to the code that the rule names, Even taking the lower one where its code is even.
int nearest(float x, int m, Tie tie) {
  const std::vector<double> grid = magnitudes(m);
  const int down = oracle::nearest(grid, x, Tie::Zero);
  const int up = oracle::nearest(grid, x, Tie::Away);
  if (tie == Tie::Even) return code_of(code_of(down, m) % 2 == 0 ? down : up, m);
  return code_of(oracle::nearest(grid, x, tie), m);
}

TEST(E3M0, EveryCodeDecodesToItsPowerOfTwo) {
  const double table[8] = {0, 0.25, 0.5, 1, 2, 4, 8, 16};
  for (std::uint8_t code = 0; code < 16; ++code) {
    EXPECT_EQ(e3m0_decode(code), code < 8 ? table[code] : -table[code - 8]);
    EXPECT_EQ(std::signbit(e3m0_decode(code)), code >= 8);
  }
  for (int m = 1; m <= 6; ++m) EXPECT_EQ(e3m0_least(m), e3m0_decode(static_cast<std::uint8_t>(7 - m)));
}

template <Tie tie>
void expect_codes_are_those_of_the_search(const std::vector<float>& values, int m) {
  for (float x : values) {
    if (std::isnan(x)) continue;
    const int magnitude = nearest(x, m, tie);
    const int want = magnitude | (std::signbit(x) && !(tie == Tie::Up && magnitude == 0) ? 8 : 0);
    ASSERT_EQ(e3m0_encode<tie>(x, m), want) << "x = " << x << ", steps " << m << ", tie " << static_cast<int>(tie);
  }
}

void expect_all_tie_rules(const std::vector<float>& values, int m) {
  expect_codes_are_those_of_the_search<Tie::Even>(values, m);
  expect_codes_are_those_of_the_search<Tie::Up>(values, m);
  expect_codes_are_those_of_the_search<Tie::Zero>(values, m);
  expect_codes_are_those_of_the_search<Tie::Away>(values, m);
}

TEST(E3M0, EveryBf16ValueGoesToTheNearestMagnitudeUnderEachTieRule) {
  for (int m = 1; m <= 6; ++m) expect_all_tie_rules(oracle::all_bf16(), m);
}

TEST(E3M0, OnlyTheExactMidpointIsATie) {
  for (int m = 1; m <= 6; ++m) expect_all_tie_rules(oracle::around_midpoints(magnitudes(m)), m);
}

TEST(E3M0, MidpointsAreArithmeticMeans) {
  EXPECT_EQ(e3m0_decode(e3m0_encode<Tie::Even>(1.49f)), 1.0f);
  EXPECT_EQ(e3m0_decode(e3m0_encode<Tie::Even>(1.51f)), 2.0f);
  EXPECT_EQ(e3m0_decode(e3m0_encode<Tie::Even>(0.49f, 4)), 0.0f);
  EXPECT_EQ(e3m0_decode(e3m0_encode<Tie::Even>(0.51f, 4)), 1.0f);
}

TEST(E3M0, LogarithmicUnbiasedRoundingHasTheMeanOfItsArgument) {
  for (int m = 1; m <= 6; ++m) {
    const auto encode = [m](float x, std::uint32_t r) { return e3m0_encode_stochastic(x, r, m); };
    for (float x : oracle::all_bf16()) {
      if (!(std::abs(x) <= 16)) continue;
      const double interval = std::abs(x) < e3m0_least(m) ? e3m0_least(m) : std::ldexp(1.0, std::ilogb(x));
      ASSERT_NEAR(oracle::expected_value(x, encode, e3m0_decode), x, interval * 0x1p-24) << x << ", steps " << m;
    }
  }
}

TEST(E3M0, LogarithmicUnbiasedRoundingTakesOnlyMagnitudesOfTheScale) {
  for (int m = 1; m <= 6; ++m) {
    const std::vector<double> grid = magnitudes(m);
    for (float x : oracle::around_midpoints(magnitudes(6))) {
      for (std::uint32_t r : {0u, 0x40'0000u, 0x80'0000u, 0xFF'FFFFu}) {
        const double q = std::abs(e3m0_decode(e3m0_encode_stochastic(x, r, m)));
        ASSERT_NE(std::find(grid.begin(), grid.end(), q), grid.end()) << x << ", steps " << m;
      }
    }
  }
}

TEST(E3M0, PowersOfTwoStayAndTheRestSaturates) {
  for (std::uint8_t code = 0; code < 16; ++code) {
    const float x = e3m0_decode(code);
    EXPECT_EQ(e3m0_encode<Tie::Even>(x), code);
    EXPECT_EQ(e3m0_encode<Tie::Away>(x), code);
    for (std::uint32_t r : {0u, 1u, 0xFF'FFFFu}) EXPECT_EQ(e3m0_encode_stochastic(x, r), code);
  }
  for (float big : {16.5f, 1e30f, kInf}) {
    EXPECT_EQ(e3m0_encode<Tie::Even>(big), 7);
    EXPECT_EQ(e3m0_encode<Tie::Zero>(-big, 1), 15);
    EXPECT_EQ(e3m0_encode_stochastic(-big, 0), 15);
  }
  for (float nan : {kNaN, -kNaN}) {
    EXPECT_EQ(e3m0_encode<Tie::Even>(nan), 7);
    EXPECT_EQ(e3m0_encode_stochastic(nan, 0), 7);
  }
}

}  // namespace
}  // namespace nibble
