// MXFP4 and MXFP8: published vectors of the E8M0 scale rules, and TetraJet's properties.
#include "tests/quant/measure.h"

namespace nibble {
namespace {

TEST(Mxfp4, OneBlockUnderThreeRulesGivesTheTabledElements) {
  const std::vector<float> x = {7, 5, -3, 1, .4f, -2.2f, 6.5f, .1f};
  struct Row {
    ScaleRule rule;
    float scale;
    std::vector<float> elements;
  };
  const Row rows[] = {
      {ScaleRule::RangeMatch34, 4.0f / 3.0f, {6, 4, -2, 1, .5f, -1.5f, 4, 0}},
      {ScaleRule::OcpFloor, 1, {6, 4, -3, 1, .5f, -2, 6, 0}},
      {ScaleRule::Ceil6, 2, {4, 2, -1.5f, .5f, 0, -1, 3, 0}},
  };
  for (const Row& row : rows) {
    Arena arena;
    const QTensor q = quantise(x, 1, mxfp4(row.rule), arena);
    EXPECT_EQ(q.scale_at(0, 0), row.scale) << static_cast<int>(row.rule);
    EXPECT_EQ(elements_of(q), row.elements) << static_cast<int>(row.rule);
  }
}

TEST(Mxfp4, RangeMatch34StoresAPowerOfTwoAndKeepsFourThirdsAside) {
  Arena arena;
  const QTensor q = quantise({7, -3}, 1, mxfp4(ScaleRule::RangeMatch34), arena);
  EXPECT_EQ(q.scales.data<std::uint8_t>()[0], 127);
  EXPECT_EQ(q.tensor_scale, 4.0f / 3.0f);
}

TEST(Mxfp4, ExponentsOfCeil6AndOcpFloorAreTheTabledOnes) {
  const float amax[] = {.75f, 1, 3, 4, 6, 6.01f, 7, 8, 12, 12.5f};
  const int ceil6[] = {-3, -2, -1, 0, 0, 1, 1, 1, 1, 2};
  const int floor[] = {-3, -2, -1, 0, 0, 0, 0, 1, 1, 1};
  for (int i = 0; i < 10; ++i) {
    Arena arena;
    EXPECT_EQ(quantise({-amax[i], .1f}, 1, mxfp4(ScaleRule::Ceil6), arena).scales.data<std::uint8_t>()[0] - 127,
              ceil6[i]);
    EXPECT_EQ(quantise({amax[i], .1f}, 1, mxfp4(ScaleRule::OcpFloor), arena).scales.data<std::uint8_t>()[0] - 127,
              floor[i]);
  }
}

TEST(Mxfp4, Nearest6TurnsAtTheSquareRootsOfTwo) {
  // amax / 6 just below and just above 2^(e + 1/2).
  for (const int e : {-20, -1, 0, 3}) {
    const auto middle = static_cast<float>(std::ldexp(6 * std::sqrt(2.0), e));
    Arena arena;
    const auto exponent = [&](float amax) {
      return quantise({amax}, 1, mxfp4(ScaleRule::Nearest6), arena).scales.data<std::uint8_t>()[0] - 127;
    };
    EXPECT_EQ(exponent(std::nextafter(middle, 0.0f)), e);
    EXPECT_EQ(exponent(std::nextafter(middle, 1e30f)), e + 1);
  }
}

TEST(Mxfp4, RangeMatch34AndCeil6NeverClip) {
  const QuantQuality floor = gaussian_quality(mxfp4(ScaleRule::OcpFloor));
  EXPECT_GT(floor.clipped, 1000);
  EXPECT_EQ(gaussian_quality(mxfp4(ScaleRule::RangeMatch34)).clipped, 0);
  EXPECT_EQ(gaussian_quality(mxfp4(ScaleRule::Ceil6)).clipped, 0);
}

TEST(Mxfp8, ScalesFollowTheElementsLargestPower) {
  struct Row {
    ElementFormat element;
    ScaleRule rule;
    float amax;
    int exponent;
  };
  const Row rows[] = {
      {ElementFormat::E4M3, ScaleRule::OcpFloor, 256, 0},  {ElementFormat::E4M3, ScaleRule::OcpFloor, 511, 0},
      {ElementFormat::E4M3, ScaleRule::Ceil6, 448, 0},     {ElementFormat::E4M3, ScaleRule::Ceil6, 449, 1},
      {ElementFormat::E4M3, ScaleRule::Ceil6, 224, -1},    {ElementFormat::E4M3, ScaleRule::Nearest6, 318, 0},
      {ElementFormat::E4M3, ScaleRule::Nearest6, 316, -1}, {ElementFormat::E5M2, ScaleRule::OcpFloor, 32768, 0},
      {ElementFormat::E5M2, ScaleRule::Ceil6, 57344, 0},   {ElementFormat::E5M2, ScaleRule::Ceil6, 57345, 1},
  };
  for (const Row& row : rows) {
    Arena arena;
    const QTensor q = quantise({row.amax, 1}, 1, quantiser(row.element, Granularity::block(1, 32), row.rule), arena);
    EXPECT_EQ(q.scales.data<std::uint8_t>()[0] - 127, row.exponent) << row.amax;
  }
}

TEST(TetraJet, StochasticRoundingOfValuesOnTheGridIsTheIdentity) {
  const std::vector<float> x = reference::gaussian(64 * 320, 12);
  Arena arena;
  const std::vector<float> once = values_of(quantise(x, 64, mxfp4(ScaleRule::Ceil6), arena));
  for (const Rounding rounding : {Rounding::Stochastic, Rounding::Stochastic8}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      QuantizeContext context;
      context.random.seed = seed;
      EXPECT_EQ(values_of(quantise(once, 64, mxfp4(ScaleRule::Ceil6, rounding), arena, context)), once) << seed;
    }
  }
}

TEST(TetraJet, RoundingTowardsTheWeightItselfIsRoundToNearest) {
  const std::vector<float> w = reference::gaussian(64 * 320, 13);  // no ties among them
  QuantizeContext context;
  context.reference = Tensor::of(w.data(), {64, 320});
  Arena arena;
  EXPECT_EQ(values_of(quantise(w, 64, mxfp4(ScaleRule::Ceil6, Rounding::Reference), arena, context)),
            values_of(quantise(w, 64, mxfp4(ScaleRule::Ceil6), arena)));
}

TEST(TetraJet, AWeightAtAThresholdStaysWhereItsAverageIs) {
  // amax 6: scale 1. 2.49 and 2.51 oscillate about the threshold 2.5 of the grid points 2 and 3.
  const std::vector<float> w = {6, 2.49f, 2.51f, 2.49f, 2.51f, -2.49f, -2.51f, 3};
  const std::vector<float> average = {6, 2.3f, 2.3f, 2.8f, 2.8f, -2.8f, -2.3f, 2};
  QuantizeContext context;
  context.reference = Tensor::of(average.data(), {1, 8});
  Arena arena;
  EXPECT_EQ(values_of(quantise(w, 1, mxfp4(ScaleRule::Ceil6, Rounding::Reference), arena, context)),
            (std::vector<float>{6, 2, 2, 3, 3, -3, -2, 3}));
}

}  // namespace
}  // namespace nibble
