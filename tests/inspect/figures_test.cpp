#include "nibble/inspect/figures.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::random_tensor;

TEST(TensorFigures, AreThoseOfAHandCalculation) {
  const float values[] = {1, -1, 1, 5};  // mean 1.5; deviations -.5 -2.5 -.5 3.5
  const TensorFigures f = tensor_figures(Tensor::of(values, {2, 2}));
  EXPECT_EQ(f.rows, 2);
  EXPECT_EQ(f.cols, 2);
  EXPECT_DOUBLE_EQ(f.rms, std::sqrt(7.0));
  EXPECT_EQ(f.amax, 5);
  const double second = (0.25 + 6.25 + 0.25 + 12.25) / 4;
  const double fourth = (0.0625 + 39.0625 + 0.0625 + 150.0625) / 4;
  EXPECT_DOUBLE_EQ(f.kurtosis, fourth / (second * second));
}

TEST(TensorFigures, NormalValuesHaveAKurtosisOfThree) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    EXPECT_NEAR(tensor_figures(random_tensor(dtype, {300, 301}, 1)).kurtosis, 3, 0.1);
  }
}

TEST(TensorFigures, EqualAndMissingValuesAreFinite) {
  const float values[] = {2, 2, 2};
  EXPECT_EQ(tensor_figures(Tensor::of(values, {1, 3})).kurtosis, 0);
  EXPECT_EQ(tensor_figures(OwnedTensor(DType::F32, {0, 3})).rms, 0);
}

TEST(ChannelFigures, AChannelScaledByAHundredIsTheTopOne) {
  const OwnedTensor x = random_tensor(DType::F32, {200, 257}, 2);
  for (std::int64_t r = 0; r < 200; ++r) x.view().data<float>()[r * 257 + 41] *= 100;
  OwnedTensor narrow(DType::BF16, {200, 257});
  convert(x, narrow);
  for (const Tensor& t : {x.view(), narrow.view()}) {
    const ChannelFigures f = channel_figures(t);
    ASSERT_EQ(f.top.size(), kTopChannels);
    EXPECT_EQ(f.top[0].channel, 41);
    EXPECT_NEAR(f.top[0].over_median, 100, 20);
    EXPECT_LT(f.top[1].over_median, 2);
    // Three channels are the top 1 %: 1e4 and two of about 1, of 1e4 + 256.
    EXPECT_NEAR(f.top_energy, (1e4 + 2) / (1e4 + 256), 0.01);
  }
}

TEST(ChannelFigures, EqualChannelsAreNamedInOrderAndFewerThanFiveAreAllNamed) {
  const float values[] = {1, 1, 1, -1, -1, 1};
  const ChannelFigures f = channel_figures(Tensor::of(values, {2, 3}));
  ASSERT_EQ(f.top.size(), 3u);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(f.top[static_cast<std::size_t>(i)].channel, i);
    EXPECT_EQ(f.top[static_cast<std::size_t>(i)].over_median, 1);
  }
  EXPECT_DOUBLE_EQ(f.top_energy, 1.0 / 3);
}

TEST(ChannelFigures, ZerosHaveNoOutliersAndAnEmptyTensorNone) {
  EXPECT_EQ(channel_figures(OwnedTensor(DType::F32, {2, 2})).top[0].over_median, 0);
  EXPECT_TRUE(channel_figures(OwnedTensor(DType::F32, {0, 2})).top.empty());
}

}  // namespace
}  // namespace nibble
