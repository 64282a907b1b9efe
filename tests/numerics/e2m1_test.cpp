#include "nibble/numerics/e2m1.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

/// Both signed neighbours of x on the grid, and of these the one nearer to the reference.
double toward_reference(double x, double reference) {
  std::vector<double> grid;
  for (double m : oracle::e2m1_magnitudes()) grid.insert(grid.end(), {-m, m});
  double low = -6;
  double high = 6;
  for (double g : grid) {
    if (g <= x) low = std::max(low, g);
    if (g >= x) high = std::min(high, g);
  }
  if (x <= -6) return -6;
  if (x >= 6) return 6;
  return std::abs(reference - high) < std::abs(reference - low) ? high : low;
}

TEST(E2M1, RoundsTowardAReferenceAsTheSearchDoes) {
  const std::vector<float> references = oracle::around_midpoints(oracle::e2m1_magnitudes());
  for (float x : oracle::around_midpoints(oracle::e2m1_magnitudes())) {
    for (float reference : references) {
      const std::uint8_t code = e2m1_encode_reference(x, reference);
      ASSERT_EQ(e2m1_decode(code), toward_reference(x, reference)) << x << " toward " << reference;
      ASSERT_EQ((code & 8) != 0, std::signbit(x)) << x << " toward " << reference;
    }
  }
}

TEST(E2M1, RoundingTowardItselfIsRoundingToNearest) {
  for (float x : oracle::all_bf16()) {
    if (std::isnan(x)) continue;
    // On a tie the lower neighbour is taken: toward zero for x > 0, away from it for x < 0.
    const std::uint8_t want = std::signbit(x) ? e2m1_encode<Tie::Away>(x) : e2m1_encode<Tie::Zero>(x);
    ASSERT_EQ(e2m1_encode_reference(x, x), want) << x;
  }
}

TEST(E2M1, AFarReferenceTakesTheNeighbourOnItsSide) {
  EXPECT_EQ(e2m1_decode(e2m1_encode_reference(2.1f, kInf)), 3.0f);
  EXPECT_EQ(e2m1_decode(e2m1_encode_reference(2.9f, -kInf)), 2.0f);
  EXPECT_EQ(e2m1_decode(e2m1_encode_reference(-2.1f, -100.0f)), -3.0f);
  EXPECT_EQ(e2m1_decode(e2m1_encode_reference(2.9f, kNaN)), 2.0f);
  EXPECT_EQ(e2m1_encode_reference(kNaN, 1.0f), 7);
  EXPECT_EQ(e2m1_encode_reference(-kInf, 1.0f), 15);
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
