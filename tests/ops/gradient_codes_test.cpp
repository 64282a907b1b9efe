#include "nibble/ops/gradient_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kInf = std::numeric_limits<float>::infinity();

OwnedTensor amax_of(const Tensor& x) {
  OwnedTensor amax(DType::F32, {1});
  update_amax(x, amax);
  return amax;
}

TEST(GradientScale, IsTheLargestPowerOfTwoThatFitsOverTheRootOfTheRanks) {
  for (const float amax : {448.0f, 447.9f, 448.1f, 1.0f, 1.75f, 1.7500001f, 1e-30f, 1e30f, 3e-39f, 1e-45f, 3e38f}) {
    const double exact = std::floor(std::log2(448.0 / static_cast<double>(amax)));
    const double power = std::exp2(std::clamp(exact, -126.0, 126.0));
    EXPECT_EQ(gradient_scale(amax, 1).sf, static_cast<float>(power)) << amax;
    EXPECT_EQ(gradient_scale(amax, 1).inv, static_cast<float>(1 / power)) << amax;
    EXPECT_EQ(gradient_scale(amax, 2).sf, static_cast<float>(power / 2)) << amax;  // four ranks
  }
  EXPECT_EQ(gradient_scale(0, 3).sf, 1.0f / 3);
  EXPECT_TRUE(std::isnan(gradient_scale(kInf, 1).inv));
}

TEST(UpdateAmax, IsTheLargestMagnitudeAndNaNCountsAsInfinity) {
  for (const std::int64_t n : {0, 1, 15, 1000, 32768, 100003}) {
    const OwnedTensor x = random_tensor(DType::F32, {n}, 5, 2.0f);
    double expected = 0;
    for (const double v : doubles(x)) expected = std::max(expected, std::abs(v));
    EXPECT_EQ(static_cast<double>(*amax_of(x).view().data<float>()), expected);
    if (n < 16) continue;
    OwnedTensor larger(DType::F32, {1});
    *larger.view().data<float>() = 100;
    update_amax(x, larger);
    EXPECT_EQ(*larger.view().data<float>(), 100);
    for (const float bad : {std::nanf(""), -std::nanf(""), kInf, -kInf}) {
      x.view().data<float>()[n - 1] = bad;
      EXPECT_EQ(*amax_of(x).view().data<float>(), kInf);
    }
  }
}

TEST(GradientCodes, SumsAreThoseOfTheDefinitionElementByElement) {
  constexpr std::int64_t kNumel = 333;
  for (const int ranks : {1, 2, 3, 8}) {
    const OwnedTensor amax(DType::F32, {1});
    std::vector<OwnedTensor> xs;
    for (int r = 0; r < ranks; ++r) {
      xs.push_back(random_tensor(DType::F32, {kNumel}, 10u + static_cast<unsigned>(r), 3e-3f));
      for (std::int64_t i = 0; i < 5; ++i) xs.back().view().data<float>()[i] = 2.6e-2f;  // equal and large: saturate
      update_amax(xs.back(), amax);
    }
    const OwnedTensor codes(DType::U8, {ranks * kNumel});
    for (int r = 0; r < ranks; ++r) {
      encode_gradient(xs[static_cast<std::size_t>(r)], amax, std::sqrt(static_cast<float>(ranks)),
                      codes.view().elements(r * kNumel, (r + 1) * kNumel));
    }
    const OwnedTensor sum(DType::U8, {kNumel});
    const OwnedTensor saturated(DType::I32, {1});
    *saturated.view().data<std::int32_t>() = 7;  // it is added to
    add_gradient_codes(codes, ranks, sum, saturated);
    const OwnedTensor x(DType::F32, {kNumel});
    decode_gradient(sum, amax, std::sqrt(static_cast<float>(ranks)), x);

    const double power = std::exp2(std::floor(std::log2(448.0 / static_cast<double>(*amax.view().data<float>()))));
    std::int32_t expected_saturated = 7;
    for (std::int64_t i = 0; i < kNumel; ++i) {
      double total = 0;
      double exact = 0;
      for (const OwnedTensor& of_rank : xs) {
        const double v = static_cast<double>(of_rank.view().data<float>()[i]);
        exact += v;
        const double scaled = v * static_cast<double>(static_cast<float>(power / std::sqrt(ranks)));
        total += static_cast<double>(e4m3_decode(e4m3_encode(static_cast<float>(scaled))));  // exact: few bits
      }
      expected_saturated += std::abs(total) > 448 ? 1 : 0;
      const double code = static_cast<double>(e4m3_decode(e4m3_encode(static_cast<float>(total))));
      const double got = static_cast<double>(x.view().data<float>()[i]);
      EXPECT_NEAR(got, code * std::sqrt(ranks) / power, 1e-6 * std::abs(got)) << ranks << " ranks, element " << i;
      // Half a unit of E4M3 for each code and one for the sum; below 2^-6 of the scale units no longer shrink.
      if (std::abs(total) <= 448) {
        double bound = std::abs(exact) / 16 + (ranks + 1) * 0x1p-10 * std::sqrt(ranks) / power;
        for (const OwnedTensor& of_rank : xs) bound += std::abs(of_rank.view().data<float>()[i]) / 14;
        EXPECT_LE(std::abs(got - exact), bound);
      }
    }
    EXPECT_EQ(*saturated.view().data<std::int32_t>(), expected_saturated);
    EXPECT_EQ(expected_saturated > 7, ranks > 1);
  }
}

TEST(GradientCodes, ANumberThatIsNotFiniteIsSeenByAllRanks) {
  for (const float bad : {kInf, -kInf, std::nanf("")}) {
    const OwnedTensor x = random_tensor(DType::F32, {64}, 1);
    x.view().data<float>()[7] = bad;
    const OwnedTensor codes(DType::U8, {64});
    encode_gradient(x, amax_of(x), std::sqrt(2.0f), codes);
    const OwnedTensor back(DType::F32, {64});
    decode_gradient(codes, amax_of(x), std::sqrt(2.0f), back);
    EXPECT_TRUE(std::isnan(back.view().data<float>()[7]));
  }
}

}  // namespace
}  // namespace nibble
