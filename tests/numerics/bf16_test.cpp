#include "nibble/numerics/bf16.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

static_assert(bf16_encode(1.0f).bits == 0x3F80 && bf16_decode(bf16{0xC040}) == -3.0f);

TEST(Bf16, EveryCodeSurvivesARoundTrip) {
  for (std::uint32_t code = 0; code < 0x10000u; ++code) {
    const bf16 x{static_cast<std::uint16_t>(code)};
    const bool nan = (code & 0x7FFFu) > 0x7F80u;
    ASSERT_EQ(bf16_encode(bf16_decode(x)).bits, nan ? code | 0x40u : code);
  }
}

TEST(Bf16, TheFloatsAroundEveryMidpointRoundToNearestEven) {
  const std::vector<double> grid = oracle::magnitudes(7, 127, 0x7F80);
  for (std::size_t code = 0; code + 1 < grid.size(); ++code) {
    const auto middle = static_cast<float>((grid[code] + grid[code + 1]) / 2);
    ASSERT_EQ(static_cast<double>(middle) * 2, grid[code] + grid[code + 1]) << "a BF16 midpoint is a float";
    const std::size_t even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(bf16_encode(middle).bits, even);
    ASSERT_EQ(bf16_encode(std::nextafter(middle, 0.0f)).bits, code);
    ASSERT_EQ(bf16_encode(std::nextafter(middle, 1e38f * 4)).bits, code + 1);
    ASSERT_EQ(bf16_encode(-middle).bits, even | 0x8000u);
    ASSERT_EQ(bf16_encode(-std::nextafter(middle, 0.0f)).bits, code | 0x8000u);
  }
}

TEST(Bf16, OverflowGoesToInfinityAndNaNStaysNaN) {
  const float border = 0x1.FFp127f;  // half way between the largest BF16 and 2^128
  EXPECT_EQ(bf16_encode(std::nextafter(border, 0.0f)).bits, 0x7F7F);
  EXPECT_EQ(bf16_encode(border).bits, 0x7F80);
  EXPECT_EQ(bf16_encode(-std::numeric_limits<float>::max()).bits, 0xFF80);
  EXPECT_EQ(bf16_encode(std::numeric_limits<float>::infinity()).bits, 0x7F80);
  EXPECT_TRUE(std::isnan(bf16_round(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(bf16_round(bits_float(0x7F80'0001u)))) << "a payload in the lower half alone";
  EXPECT_TRUE(std::isnan(bf16_round(bits_float(0xFFFF'FFFFu)))) << "a payload that a carry would push into the sign";
}

TEST(Bf16, GenericConversionsAreThoseOfTheType) {
  EXPECT_EQ(from_float<bf16>(1.00390625f), bf16_encode(1.00390625f));
  EXPECT_EQ(from_float<float>(0.1f), 0.1f);
  EXPECT_EQ(to_float(bf16{0x4049}), 3.140625f);
  EXPECT_EQ(to_float(0.1f), 0.1f);
}

}  // namespace
}  // namespace nibble
