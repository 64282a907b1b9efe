#include "nibble/numerics/int4.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

static_assert(int4_encode<Tie::Even>(2.5f) == 2 && int4_encode<Tie::Even>(-3.5f) == (8 | 4));
static_assert(int4_decode(15) == -7.0f && int4_integer(13) == -5);

TEST(Int4, EveryCodeDecodesToItsInteger) {
  for (std::uint8_t code = 0; code < 16; ++code) {
    const int magnitude = code % 8;
    EXPECT_EQ(int4_integer(code), code < 8 ? magnitude : -magnitude);
    EXPECT_EQ(int4_decode(code), static_cast<float>(int4_integer(code)));
    EXPECT_EQ(std::signbit(int4_decode(code)), code >= 8);
  }
}

template <Tie tie>
void expect_codes_are_those_of_the_search(const std::vector<float>& values) {
  const std::vector<double> grid = oracle::int4_magnitudes();
  for (float x : values) {
    if (std::isnan(x)) continue;
    const int m = oracle::nearest(grid, x, tie);
    const int want = m | (std::signbit(x) && !(tie == Tie::Up && m == 0) ? 8 : 0);
    ASSERT_EQ(int4_encode<tie>(x), want) << "x = " << x << ", tie rule " << static_cast<int>(tie);
  }
}

void expect_all_tie_rules(const std::vector<float>& values) {
  expect_codes_are_those_of_the_search<Tie::Even>(values);
  expect_codes_are_those_of_the_search<Tie::Up>(values);
  expect_codes_are_those_of_the_search<Tie::Zero>(values);
  expect_codes_are_those_of_the_search<Tie::Away>(values);
}

TEST(Int4, EveryBf16ValueGoesToTheNearestIntegerUnderEachTieRule) { expect_all_tie_rules(oracle::all_bf16()); }

TEST(Int4, OnlyTheExactMidpointIsATie) { expect_all_tie_rules(oracle::around_midpoints(oracle::int4_magnitudes())); }

TEST(Int4, TiesGoWhereTheirRuleSays) {
  EXPECT_EQ(int4_encode<Tie::Even>(0.5f), 0);
  EXPECT_EQ(int4_encode<Tie::Even>(1.5f), 2);
  EXPECT_EQ(int4_encode<Tie::Up>(2.5f), 3);
  EXPECT_EQ(int4_encode<Tie::Up>(-2.5f), 8 | 2);
  EXPECT_EQ(int4_encode<Tie::Up>(-0.5f), 0) << "no sign: +0";
  EXPECT_EQ(int4_encode<Tie::Zero>(3.5f), 3);
  EXPECT_EQ(int4_encode<Tie::Away>(-2.5f), 8 | 3);
}

TEST(Int4, StochasticRoundingHasTheMeanOfItsArgument) {
  for (float x : oracle::all_bf16()) {
    if (!(std::abs(x) <= 7)) continue;
    ASSERT_NEAR(oracle::expected_value(x, int4_encode_stochastic, int4_decode), x, 0x1p-24) << x;
  }
}

TEST(Int4, IntegersStayAndTheRestSaturates) {
  for (std::uint8_t code = 0; code < 16; ++code) {
    for (std::uint32_t r : {0u, 1u, 0xFF'FFFFu}) EXPECT_EQ(int4_encode_stochastic(int4_decode(code), r), code);
  }
  for (float big : {7.1f, 1e30f, kInf}) {
    EXPECT_EQ(int4_encode<Tie::Even>(big), 7);
    EXPECT_EQ(int4_encode<Tie::Zero>(-big), 15);
    EXPECT_EQ(int4_encode_stochastic(-big, 0), 15);
  }
  for (float nan : {kNaN, -kNaN}) {
    EXPECT_EQ(int4_encode<Tie::Even>(nan), 7);
    EXPECT_EQ(int4_encode_stochastic(nan, 0), 7);
  }
}

}  // namespace
}  // namespace nibble
