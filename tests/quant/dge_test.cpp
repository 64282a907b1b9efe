#include "nibble/quant/dge.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

const std::vector<float> kGoldenInputs = {-6,        -5.375,     -4.75,      -4.09375,  -3.46875,  -2.84375, -2.203125,
                                          -1.578125, -.94921875, -.31640625, .31640625, .94921875, 1.578125, 2.203125,
                                          2.84375,   3.46875,    4.09375,    4.75,      5.375,     6};
const std::vector<float> kGoldenOutputs = {.2002f, .4375f,  .6055f, .2168f, 1.8359f, .2695f, .3027f,
                                           .2695f, .2402f,  .5781f, .5781f, .2402f,  .2695f, .3027f,
                                           .2695f, 1.8359f, .2168f, .6055f, .4375f,  .2002f};

TEST(Dge, MatchesTheReleasedTestAfterRoundingToBf16) {
  for (std::size_t i = 0; i < kGoldenInputs.size(); ++i) {
    EXPECT_NEAR(bf16_round(dge_derivative(kGoldenInputs[i], 5, 3)), kGoldenOutputs[i], 6e-5) << kGoldenInputs[i];
  }
}

TEST(Dge, HasTheTabledValuesInFloat) {
  const std::pair<float, double> table[] = {{0, .2},    {.1f, .30096}, {.2f, .72478}, {.3f, .72478}, {.25f, 3},
                                            {.75f, 3},  {2.5f, 3},     {5, 3},        {6, .2},       {6.0625f, 0},
                                            {-.25f, 3}, {-6, .2},      {-7, 0}};
  for (const auto& [x, want] : table) EXPECT_NEAR(dge_derivative(x, 5, 3), want, 5e-6) << x;
}

TEST(Dge, UnclippedIntegratesToOneOverEachInterval) {
  // With |t| = v^k the integral over half an interval is that of f' k v^(k-1) over v, which has no pole. Below
  // v = 0.1 a float cannot hold the distance from the middle; the integrand is one there.
  const std::pair<double, double> intervals[] = {{0, .5}, {.5, .5}, {1, .5}, {1.5, .5}, {2, 1}, {3, 1}, {4, 2}};
  for (const auto& [low, delta] : intervals) {
    for (const double side : {-1.0, 1.0}) {
      constexpr int kPoints = 10000;
      double sum = 0.1 * kPoints / 0.9;
      for (int i = 0; i < kPoints; ++i) {
        const double v = 0.1 + 0.9 * (i + 0.5) / kPoints;
        const double x = low + delta / 2 * (1 + side * std::pow(v, 5));
        sum += dge_derivative(static_cast<float>(x), 5, 1e30f) * 5 * std::pow(v, 4);
      }
      EXPECT_NEAR(0.9 * sum / kPoints, 1.0, 1e-3) << low;
    }
  }
}

TEST(Dge, ClippedMeanOfAnIntervalIsTheTabledOne) {
  const std::pair<float, double> table[] = {{3, .7778}, {5, .59349}, {10, .38324}};
  for (const auto& [k, want] : table) {
    constexpr int kPoints = 1 << 16;
    double sum = 0;
    for (int i = 0; i < kPoints; ++i) sum += dge_derivative(static_cast<float>(4 + 2 * (i + 0.5) / kPoints), k, 3);
    EXPECT_NEAR(sum / kPoints, want, 2e-4) << k;
  }
}

QuantSpec weights(Granularity granularity, ScaleRule scale) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = granularity;
  spec.scale = scale;
  spec.rounding = Rounding::NearestUp;
  return spec;
}

TEST(Dge, ApplyIsWithinTwoMillionthsOfThePowerFunction) {
  // A row whose scale is one, dense in every interval and near every middle.
  std::vector<float> w = {6.0f};
  for (int i = 0; i < 60000; ++i) w.push_back(-6.0f + 12.0f * static_cast<float>(i) / 60000.0f);
  for (const float middle : {.25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}) {
    for (int i = -40; i <= 40; ++i)
      w.push_back(reference::as_float(reference::as_bits(middle) + static_cast<std::uint32_t>(i)));
  }
  const auto cols = static_cast<std::int64_t>(w.size());
  const QuantSpec spec = weights(Granularity::per_row(), ScaleRule::Absmax);
  Arena arena;
  const QTensor q = quantize(Tensor::of(w.data(), {1, cols}), spec, {}, arena);
  ASSERT_EQ(q.scale_at(0, 0), 1.0f);
  for (const float k : {1.0f, 2.0f, 3.0f, 5.0f, 10.0f}) {
    for (const float clip : {3.0f, 1e30f}) {
      std::vector<float> dw(w.size(), 1.0f);
      dge_apply(Tensor::of(dw.data(), {1, cols}), Tensor::of(w.data(), {1, cols}), q, spec, k, clip);
      for (std::size_t i = 0; i < w.size(); ++i) {
        const double want = dge_derivative(w[i], k, clip);
        ASSERT_NEAR(dw[i], want, 2e-6 * want) << "w " << w[i] << " k " << k << " clip " << clip;
      }
    }
  }
}

TEST(Dge, ApplyUsesTheScaleOfEachBlock) {
  const std::vector<std::pair<Granularity, ScaleRule>> kinds = {
      {Granularity::per_row(), ScaleRule::Absmax},       {Granularity::per_column(), ScaleRule::AbsmaxPow2},
      {Granularity::per_tensor(), ScaleRule::Absmax},    {Granularity::block(1, 32), ScaleRule::Ceil6},
      {Granularity::block(16, 16), ScaleRule::Nvfp4},    {Granularity::block(3, 5), ScaleRule::Absmax},
      {Granularity::block(1, 1), ScaleRule::AbsmaxPow2},
  };
  constexpr std::int64_t kRows = 37;
  constexpr std::int64_t kCols = 83;
  std::vector<float> w = reference::gaussian(kRows * kCols, 12, 0.02f);
  for (const auto& [granularity, scale] : kinds) {
    for (const ElementFormat carrier : {ElementFormat::BF16, ElementFormat::E4M3}) {
      QuantSpec spec = weights(granularity, scale);
      spec.carrier = carrier;
      Arena arena;
      const QTensor q = quantize(Tensor::of(w.data(), {kRows, kCols}), spec, {}, arena);
      std::vector<float> dw = reference::gaussian(kRows * kCols, 13);
      const std::vector<float> before = dw;
      dge_apply(Tensor::of(dw.data(), {kRows, kCols}), Tensor::of(w.data(), {kRows, kCols}), q, spec, 5, 3);
      const reference::Result elements = reference::quantize(w, kRows, kCols, spec, {});
      for (std::size_t i = 0; i < w.size(); ++i) {
        const float s = elements.block_scale[i] * elements.tensor_scale;
        const float scaled = std::clamp(w[i] * (1.0f / s), -6.0f, 6.0f);
        ASSERT_NEAR(dw[i], before[i] * dge_derivative(scaled, 5, 3), 3e-6 * std::abs(before[i]))
            << i << " scale rule " << static_cast<int>(scale) << " carrier " << static_cast<int>(carrier);
      }
    }
  }
}

TEST(Dge, ReleasedModeRoundsTheScaledWeightAndTheDerivativeToBf16) {
  // Power-of-two scales, so the scaled weight is the BF16 weight with another exponent; k = 5, clip = 3.
  std::vector<float> w = reference::gaussian(16 * 100, 14, 0.05f);
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const OwnedTensor tensor = reference::make_tensor(dtype, 16, 100, w);
    QuantSpec spec = weights(Granularity::per_column(), ScaleRule::AbsmaxPow2);
    spec.bf16_input = true;
    spec.carrier = ElementFormat::E4M3;
    Arena arena;
    const QTensor q = quantize(tensor, spec, {}, arena);
    std::vector<float> dw(w.size(), 1.0f);
    dge_apply(Tensor::of(dw.data(), {16, 100}), tensor, q, spec, 5, 3);
    const reference::Result elements = reference::quantize(w, 16, 100, spec, {});
    for (std::size_t i = 0; i < w.size(); ++i) {
      const float scaled = reference::to_bf16(reference::to_bf16(w[i]) / elements.block_scale[i]);
      ASSERT_EQ(dw[i], reference::to_bf16(dge_derivative(scaled, 5, 3))) << w[i];
    }
  }
}

TEST(Dge, ZeroWeightsGetTheSlopeAtAGridPoint) {
  std::vector<float> w(64, 0.0f);
  for (const auto& [granularity, scale] :
       {std::pair{Granularity::per_row(), ScaleRule::Absmax}, std::pair{Granularity::block(1, 16), ScaleRule::Nvfp4}}) {
    const QuantSpec spec = weights(granularity, scale);
    Arena arena;
    const QTensor q = quantize(Tensor::of(w.data(), {2, 32}), spec, {}, arena);
    std::vector<float> dw(64, 1.0f);
    dge_apply(Tensor::of(dw.data(), {2, 32}), Tensor::of(w.data(), {2, 32}), q, spec, 5, 3);
    for (const float v : dw) EXPECT_NEAR(v, 0.2f, 1e-6);
  }
}

TEST(Dge, RefusesOperandsWithoutAGrid) {
  std::vector<float> w(8, 1.0f);
  const Tensor tensor = Tensor::of(w.data(), {2, 4});
  EXPECT_THROW(dge_apply(tensor, tensor, QTensor::view(tensor), {}, 5, 3), InternalError);
}

}  // namespace
}  // namespace nibble
