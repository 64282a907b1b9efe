#include "nibble/numerics/portable.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/numerics/grid_oracle.h"

namespace nibble {
namespace {

static_assert(pow2_floor(447.9f) == 256.0f && log2_floor(0.75f) == -1 && exp2_int(-126) == 0x1p-126f);

TEST(Portable, Exp2OfEveryNormalExponentIsExact) {
  for (int e = -126; e <= 127; ++e) EXPECT_EQ(exp2_int(e), std::ldexp(1.0, e));
}

TEST(Portable, Log2FloorIsExactForNormalsAndSubnormals) {
  for (int e = -149; e <= 127; ++e) {
    const auto power = static_cast<float>(std::ldexp(1.0, e));
    EXPECT_EQ(log2_floor(power), e);
    if (e > -149) {
      EXPECT_EQ(log2_floor(std::nextafter(power, 0.0f)), e - 1);
    }
    if (e > -126) {
      EXPECT_EQ(pow2_floor(power), power);
      EXPECT_EQ(pow2_floor(std::nextafter(power, 0.0f)), power / 2);
    }
  }
}

TEST(Portable, PredicatesAgreeWithTheLibraryOnEveryBf16Value) {
  for (float x : oracle::all_bf16()) {
    ASSERT_EQ(float_is_nan(x), std::isnan(x));
    ASSERT_EQ(float_is_finite(x), std::isfinite(x));
    ASSERT_EQ(float_signbit(x), std::signbit(x));
    if (!std::isnan(x)) {
      ASSERT_EQ(float_abs(x), std::abs(x));
    }
  }
}

}  // namespace
}  // namespace nibble
