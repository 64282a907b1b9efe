#include "nibble/numerics/fp8.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

static_assert(e4m3_encode(448.0f) == 0x7E && e4m3_decode(0x38) == 1.0f);
static_assert(e5m2_encode(-57344.0f) == 0xFB && e5m2_decode(0x01) == 0x1p-16f);
static_assert(e8m0_decode(127) == 1.0f && e8m0_encode_exponent(-3) == 124);

struct E4M3 {
  static constexpr float kMax = kE4M3Max;
  static std::vector<double> grid() { return oracle::e4m3_magnitudes(); }
  static std::uint8_t encode(float x) { return e4m3_encode(x); }
  static float decode(std::uint8_t code) { return e4m3_decode(code); }
};
struct E5M2 {
  static constexpr float kMax = kE5M2Max;
  static std::vector<double> grid() { return oracle::e5m2_magnitudes(); }
  static std::uint8_t encode(float x) { return e5m2_encode(x); }
  static float decode(std::uint8_t code) { return e5m2_decode(code); }
};

template <class Format>
class Fp8 : public testing::Test {
 protected:
  static void expect_nearest_even(const std::vector<float>& values) {
    const std::vector<double> grid = Format::grid();
    for (float x : values) {
      if (std::isnan(x)) continue;
      ASSERT_EQ(Format::encode(x), oracle::nearest(grid, x, Tie::Even) | (std::signbit(x) ? 0x80 : 0)) << x;
    }
  }
};
using Formats = testing::Types<E4M3, E5M2>;
TYPED_TEST_SUITE(Fp8, Formats);

TYPED_TEST(Fp8, EveryFiniteCodeDecodesToItsValueAndBack) {
  const std::vector<double> grid = TypeParam::grid();
  EXPECT_EQ(grid.back(), TypeParam::kMax);
  for (std::size_t m = 0; m < grid.size(); ++m) {
    const auto code = static_cast<std::uint8_t>(m);
    const auto negative = static_cast<std::uint8_t>(m | 0x80u);
    EXPECT_EQ(TypeParam::decode(code), grid[m]);
    EXPECT_EQ(float_bits(TypeParam::decode(negative)), float_bits(static_cast<float>(-grid[m])));
    EXPECT_EQ(TypeParam::encode(TypeParam::decode(code)), code);
    EXPECT_EQ(TypeParam::encode(TypeParam::decode(negative)), negative);
  }
}

TYPED_TEST(Fp8, EveryBf16ValueGoesToTheNearestEven) { this->expect_nearest_even(oracle::all_bf16()); }

TYPED_TEST(Fp8, TheFloatsAroundEveryMidpointGoToTheNearestEven) {
  this->expect_nearest_even(oracle::around_midpoints(TypeParam::grid()));
}

TYPED_TEST(Fp8, InfinitySaturatesAndNaNStaysNaN) {
  EXPECT_EQ(TypeParam::decode(TypeParam::encode(kInf)), TypeParam::kMax);
  EXPECT_EQ(TypeParam::decode(TypeParam::encode(-kInf)), -TypeParam::kMax);
  EXPECT_EQ(TypeParam::decode(TypeParam::encode(std::numeric_limits<float>::max())), TypeParam::kMax);
  for (float nan : {kNaN, -kNaN, bits_float(0x7F80'0001u)}) {
    EXPECT_TRUE(std::isnan(TypeParam::decode(TypeParam::encode(nan))));
  }
}

TEST(E4M3, RoundsAsInThePublishedTable) {
  EXPECT_EQ(e4m3_decode(e4m3_encode(33.6f)), 32.0f);
  EXPECT_EQ(e4m3_decode(e4m3_encode(34.0f)), 32.0f) << "a tie, to even";
  EXPECT_EQ(e4m3_decode(e4m3_encode(34.1f)), 36.0f);
  EXPECT_EQ(e4m3_decode(e4m3_encode(464.0f)), 448.0f) << "saturates";
  EXPECT_EQ(e4m3_decode(e4m3_encode(0x1p-10f)), 0.0f) << "a tie, to even";
  EXPECT_EQ(e4m3_decode(e4m3_encode(1.5f * 0x1p-9f)), 2 * 0x1p-9f) << "a tie, to even";
}

TEST(E4M3, WellKnownCodes) {
  EXPECT_EQ(e4m3_encode(448.0f), 0x7E);
  EXPECT_EQ(e4m3_encode(384.0f), 0x7C);
  EXPECT_EQ(e4m3_encode(256.0f), 0x78);
  EXPECT_EQ(e4m3_encode(32.0f), 0x60);
  EXPECT_EQ(e4m3_encode(1.0f), 0x38);
  EXPECT_EQ(e4m3_encode(9 * 0x1p-9f), 0x09);
  EXPECT_EQ(e4m3_encode(6 * 0x1p-9f), 0x06);
  EXPECT_TRUE(std::isnan(e4m3_decode(0x7F)));
  EXPECT_TRUE(std::isnan(e4m3_decode(0xFF)));
}

TEST(E4M3, StochasticRoundingTakes33Point6To36InFourCasesOfTen) {
  constexpr std::uint32_t kAll = 1u << 24;
  std::uint32_t up = 0;
  for (std::uint32_t r = 0; r < kAll; ++r) {
    const std::uint8_t code = e4m3_encode_stochastic(33.6f, r);
    ASSERT_TRUE(code == 0x60 || code == 0x61) << r;
    up += code == 0x61 ? 1 : 0;
  }
  EXPECT_EQ(e4m3_decode(0x61), 36.0f);
  EXPECT_NEAR(static_cast<double>(up) / kAll, 0.4, 1e-6);
}

TEST(E4M3, StochasticRoundingHasTheMeanOfItsArgument) {
  for (float x : oracle::all_bf16()) {
    if (!(x >= 0 && x <= 448.0f)) continue;
    const double mean = oracle::expected_value(x, e4m3_encode_stochastic, e4m3_decode);
    const double step = x < 0x1p-6f ? 0x1p-9 : std::ldexp(1.0, std::ilogb(x) - 3);
    ASSERT_NEAR(mean, x, step * 0x1p-24) << x;
  }
}

TEST(E4M3, StochasticRoundingTakesANeighbour) {
  const std::vector<double> grid = oracle::e4m3_magnitudes();
  for (float x : oracle::around_midpoints(grid)) {
    if (!(x >= 0)) continue;
    const auto above = std::lower_bound(grid.begin(), grid.end(), std::min(static_cast<double>(x), 448.0));
    const double low = *above == x ? x : above == grid.begin() ? 0 : *(above - 1);
    EXPECT_EQ(e4m3_decode(e4m3_encode_stochastic(x, 0xFF'FFFF)), x >= 448 ? 448 : low) << x;
    EXPECT_EQ(e4m3_decode(e4m3_encode_stochastic(x, 0)), *above) << x;
  }
}

TEST(E4M3, StochasticRoundingKeepsExactValuesAndSaturates) {
  for (std::uint8_t code = 0; code <= 0x7E; ++code) {
    for (std::uint32_t r : {0u, 1u, 0x80'0000u, 0xFF'FFFFu}) {
      ASSERT_EQ(e4m3_encode_stochastic(e4m3_decode(code), r), code);
    }
  }
  for (float big : {448.5f, 1e30f, kInf}) EXPECT_EQ(e4m3_encode_stochastic(big, 0), 0x7E);
  EXPECT_EQ(e4m3_encode_stochastic(kNaN, 0), 0x7F);
}

TEST(E5M2, HasInfinityAndNaNCodes) {
  EXPECT_EQ(e5m2_decode(0x7C), kInf);
  EXPECT_EQ(e5m2_decode(0xFC), -kInf);
  for (int m = 0x7D; m <= 0x7F; ++m) EXPECT_TRUE(std::isnan(e5m2_decode(static_cast<std::uint8_t>(m))));
}

TEST(E8M0, EveryCodeIsItsPowerOfTwoAndEveryExponentItsCode) {
  for (int b = 0; b < 255; ++b) {
    EXPECT_EQ(e8m0_decode(static_cast<std::uint8_t>(b)), std::ldexp(1.0, b - 127));
    EXPECT_EQ(e8m0_encode_exponent(b - 127), b);
  }
  EXPECT_TRUE(std::isnan(e8m0_decode(0xFF)));
  EXPECT_EQ(e8m0_encode_exponent(-1000), 0);
  EXPECT_EQ(e8m0_encode_exponent(128), 254);
}

}  // namespace
}  // namespace nibble
