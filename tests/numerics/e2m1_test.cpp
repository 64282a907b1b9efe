#include "nibble/numerics/e2m1.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

static_assert(e2m1_encode<Tie::Even>(2.5f) == 4 && e2m1_encode<Tie::Even>(-3.5f) == (8 | 6));
static_assert(e2m1_decode(15) == -6.0f && e2m1_twice(13) == -6);

TEST(E2M1, EveryCodeDecodesToItsTableValue) {
  for (std::uint8_t code = 0; code < 16; ++code) {
    const double magnitude = oracle::e2m1_magnitudes()[code & 7];
    EXPECT_EQ(e2m1_decode(code), code < 8 ? magnitude : -magnitude);
    EXPECT_EQ(std::signbit(e2m1_decode(code)), code >= 8) << "code " << int{code};
    EXPECT_EQ(e2m1_twice(code), static_cast<int>(2 * e2m1_decode(code)));
  }
}

template <Tie tie>
void expect_codes_are_those_of_the_search(const std::vector<float>& values) {
  const std::vector<double> grid = oracle::e2m1_magnitudes();
  for (float x : values) {
    if (std::isnan(x)) continue;
    const int m = oracle::nearest(grid, x, tie);
    // TieUp writes no negative zero.
    const int want = m | (std::signbit(x) && !(tie == Tie::Up && m == 0) ? 8 : 0);
    ASSERT_EQ(e2m1_encode<tie>(x), want) << "x = " << x << ", tie rule " << static_cast<int>(tie);
  }
}

void expect_all_tie_rules(const std::vector<float>& values) {
  expect_codes_are_those_of_the_search<Tie::Even>(values);
  expect_codes_are_those_of_the_search<Tie::Up>(values);
  expect_codes_are_those_of_the_search<Tie::Zero>(values);
  expect_codes_are_those_of_the_search<Tie::Away>(values);
}

TEST(E2M1, EveryBf16ValueGoesToTheNearestCodeUnderEachTieRule) { expect_all_tie_rules(oracle::all_bf16()); }

TEST(E2M1, OnlyTheExactMidpointIsATie) { expect_all_tie_rules(oracle::around_midpoints(oracle::e2m1_magnitudes())); }

TEST(E2M1, EveryCodeEncodesToItself) {
  for (std::uint8_t code = 0; code < 16; ++code) {
    const float x = e2m1_decode(code);
    EXPECT_EQ(e2m1_encode<Tie::Even>(x), code);
    EXPECT_EQ(e2m1_encode<Tie::Zero>(x), code);
    EXPECT_EQ(e2m1_encode<Tie::Away>(x), code);
    EXPECT_EQ(e2m1_encode<Tie::Up>(x), code == 8 ? 0 : code);
    for (std::uint32_t r : {0u, 1u, 0x80'0000u, 0xFF'FFFFu}) EXPECT_EQ(e2m1_encode_stochastic(x, r), code);
    for (std::uint32_t r = 0; r < 256; ++r) EXPECT_EQ(e2m1_encode_stochastic8(x, r), code);
  }
}

TEST(E2M1, InfinitySaturatesAndNaNGivesPlusSix) {
  for (float nan : {kNaN, -kNaN}) {
    EXPECT_EQ(e2m1_encode<Tie::Even>(nan), 7);
    EXPECT_EQ(e2m1_encode<Tie::Up>(nan), 7);
    EXPECT_EQ(e2m1_encode<Tie::Zero>(nan), 7);
    EXPECT_EQ(e2m1_encode<Tie::Away>(nan), 7);
    EXPECT_EQ(e2m1_encode_stochastic(nan, 5), 7);
    EXPECT_EQ(e2m1_encode_stochastic8(nan, 5), 7);
  }
  for (float big : {6.5f, 1e30f, kInf}) {
    EXPECT_EQ(e2m1_encode<Tie::Zero>(big), 7);
    EXPECT_EQ(e2m1_encode<Tie::Zero>(-big), 15);
    EXPECT_EQ(e2m1_encode_stochastic(-big, 0), 15);
    EXPECT_EQ(e2m1_encode_stochastic8(-big, 255), 15);
  }
}

TEST(E2M1, TheStepIsTheDistanceToTheNextMagnitude) {
  const std::vector<double> grid = oracle::e2m1_magnitudes();
  for (std::size_t i = 0; i + 1 < grid.size(); ++i) {
    EXPECT_EQ(e2m1_step(static_cast<float>(grid[i])), grid[i + 1] - grid[i]);
    EXPECT_EQ(e2m1_step(std::nextafter(static_cast<float>(grid[i + 1]), 0.0f)), grid[i + 1] - grid[i]);
    EXPECT_EQ(e2m1_code_of_grid(static_cast<float>(grid[i])), i);
  }
  EXPECT_EQ(e2m1_code_of_grid(6.0f), 7);
}

}  // namespace
}  // namespace nibble
