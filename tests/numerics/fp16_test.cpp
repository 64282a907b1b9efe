#include "nibble/numerics/fp16.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

static_assert(fp16_encode(1.0f) == 0x3C00 && fp16_decode(0xC200) == -3.0f);
static_assert(fp16_encode_saturate(1e9f) == 0x7BFF && fp16_decode(0x0001) == 0x1p-24f);

TEST(Fp16, EveryCodeDecodesToItsValueAndBack) {
  const std::vector<double> grid = oracle::fp16_magnitudes();
  ASSERT_EQ(grid.back(), kFp16Max);
  for (std::uint32_t m = 0; m < grid.size(); ++m) {
    const auto code = static_cast<std::uint16_t>(m);
    const auto negative = static_cast<std::uint16_t>(m | 0x8000u);
    ASSERT_EQ(fp16_decode(code), grid[m]);
    ASSERT_EQ(float_bits(fp16_decode(negative)), float_bits(static_cast<float>(-grid[m])));
    ASSERT_EQ(fp16_encode(fp16_decode(code)), code);
    ASSERT_EQ(fp16_encode(fp16_decode(negative)), negative);
    ASSERT_EQ(fp16_encode_saturate(fp16_decode(negative)), negative);
  }
}

void expect_nearest_even(const std::vector<float>& values) {
  const std::vector<double> grid = oracle::fp16_magnitudes();
  for (float x : values) {
    if (std::isnan(x)) continue;
    const int m = oracle::nearest(grid, x, Tie::Even);
    const int sign = std::signbit(x) ? 0x8000 : 0;
    ASSERT_EQ(fp16_encode_saturate(x), m | sign) << x;
    ASSERT_EQ(fp16_encode(x), (std::abs(x) >= 65520.0f ? 0x7C00 : m) | sign) << x;
  }
}

TEST(Fp16, EveryBf16ValueGoesToTheNearestEven) { expect_nearest_even(oracle::all_bf16()); }

TEST(Fp16, TheFloatsAroundEveryMidpointGoToTheNearestEven) {
  expect_nearest_even(oracle::around_midpoints(oracle::fp16_magnitudes()));
}

TEST(Fp16, OverflowIsInfinityOrSaturates) {
  EXPECT_EQ(fp16_encode(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
  EXPECT_EQ(fp16_encode(65520.0f), 0x7C00);
  EXPECT_EQ(fp16_encode(-kInf), 0xFC00);
  EXPECT_EQ(fp16_encode_saturate(65520.0f), 0x7BFF);
  EXPECT_EQ(fp16_encode_saturate(-kInf), 0xFBFF);
  EXPECT_EQ(fp16_decode(0x7C00), kInf);
  EXPECT_EQ(fp16_decode(0xFC00), -kInf);
}

TEST(Fp16, NaNStaysNaN) {
  for (std::uint32_t m = 0x7C01; m <= 0x7FFF; ++m) {
    const float x = fp16_decode(static_cast<std::uint16_t>(m | 0x8000u));
    ASSERT_TRUE(std::isnan(x));
    ASSERT_EQ(fp16_encode(x), m | 0x8200u) << "quietened, payload kept";
    ASSERT_EQ(fp16_encode_saturate(x), m | 0x8200u);
  }
  EXPECT_EQ(fp16_encode(bits_float(0x7F80'0001u)), 0x7E00);
}

}  // namespace
}  // namespace nibble
