// QuEST's scales and trust mask (Quartet's forward): published vectors and figures.
#include "tests/quant/measure.h"

namespace nibble {
namespace {

QuantSpec quest(ScaleRule rule = ScaleRule::QuestFloor, Rounding rounding = Rounding::NearestZero) {
  QuantSpec spec = mxfp4(rule, rounding);
  spec.trust_mask = true;
  return spec;
}

std::uint32_t mask_of(const QTensor& q) {
  std::uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= std::uint32_t{q.mask.data<std::uint8_t>()[i]} << (8 * i);
  return bits;
}

TEST(Quest, AnAlternatingBlockIsReconstructedExactly) {
  std::vector<float> x(32);
  for (std::size_t i = 0; i < 32; ++i) x[i] = i % 2 == 0 ? 1.0f : -1.0f;
  Arena arena;
  const QTensor q = quantise(x, 1, quest(), arena);
  EXPECT_EQ(q.scale_at(0, 0), 0.25f);
  EXPECT_EQ(values_of(q), x);
  for (const float v : elements_of(q)) EXPECT_EQ(std::abs(v), 4.0f);
  EXPECT_EQ(mask_of(q), 0xFFFF'FFFFu);
  const QTensor exact = quantise(x, 1, quest(ScaleRule::QuestExact), arena);
  EXPECT_NEAR(exact.scale_at(0, 0), 2.92247856 / 6, 1e-7);
}

TEST(Quest, ALonelyOutlierIsClippedAndNotTrusted) {
  std::vector<float> x(32, 0.0f);
  x[5] = 8;
  Arena arena;
  const QTensor q = quantise(x, 1, quest(), arena);
  EXPECT_EQ(q.scale_at(0, 0), 0.5f);
  EXPECT_EQ(q.value_at(0, 5), 3.0f);
  EXPECT_EQ(mask_of(q), ~(1u << 5));
  EXPECT_NEAR(quantise(x, 1, quest(ScaleRule::QuestExact), arena).scale_at(0, 0), 0.677986, 1e-6);
}

TEST(Quest, ARampGivesTheTabledValues) {
  std::vector<float> x(32);
  for (std::size_t i = 0; i < 32; ++i) x[i] = (static_cast<float>(i) - 15.5f) / 8;
  Arena arena;
  const QTensor q = quantise(x, 1, quest(), arena);
  EXPECT_EQ(q.scale_at(0, 0), 0.5f);
  EXPECT_EQ(mask_of(q), 0xFFFF'FFFFu);
  const float upper[] = {0, .25f, .25f, .5f, .5f, .75f, .75f, 1, 1, 1, 1.5f, 1.5f, 1.5f, 1.5f, 2, 2};
  for (std::int64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(q.value_at(0, 16 + i), upper[i]) << i;
    EXPECT_EQ(q.value_at(0, 15 - i), -upper[i]) << i;
  }
  EXPECT_NEAR(quantise(x, 1, quest(ScaleRule::QuestExact), arena).scale_at(0, 0), 1.154137 * 2.92247856 / 6, 1e-6);
}

TEST(Quest, ThreeRoundingsOfTheScaleSurroundTheExactOne) {
  const std::vector<float> x = reference::gaussian(64 * 320, 31, 1.7f);
  Arena arena;
  const QTensor exact = quantise(x, 64, quest(ScaleRule::QuestExact), arena);
  const QTensor floor = quantise(x, 64, quest(ScaleRule::QuestFloor), arena);
  const QTensor ceil = quantise(x, 64, quest(ScaleRule::QuestCeil), arena);
  const QTensor nearest = quantise(x, 64, quest(ScaleRule::QuestNearest), arena);
  for (std::int64_t r = 0; r < 64; ++r) {
    for (std::int64_t c = 0; c < 320; c += 32) {
      const double s = exact.scale_at(r, c);
      EXPECT_LE(floor.scale_at(r, c), s);
      EXPECT_GT(2 * floor.scale_at(r, c), s);
      EXPECT_GE(ceil.scale_at(r, c), s);
      const double n = nearest.scale_at(r, c);
      EXPECT_LE(std::abs(std::log2(n / s)), 0.5 + 1e-6);
    }
  }
}

TEST(Quest, ErrorsByRoundingOfTheScaleAreTheTabledOnes) {
  const auto mse = [](const QuantQuality& q) { return q.relative_mse(); };
  const auto masked = [](const QuantQuality& q) {
    return static_cast<double>(q.clipped) / static_cast<double>(q.count);
  };
  expect_within(octave_mean(quest(), mse), 2.23e-2, 0.02, "floor");
  expect_within(octave_mean(quest(), masked), 5.3e-2, 0.02, "floor, masked");
  expect_within(octave_mean(quest(ScaleRule::QuestNearest), mse), 1.338e-2, 0.02, "nearest");
  expect_within(octave_mean(quest(ScaleRule::QuestNearest), masked), 0.83e-2, 0.04, "nearest, masked");
  expect_within(octave_mean(quest(ScaleRule::QuestCeil), mse), 1.552e-2, 0.02, "ceil");
  expect_within(octave_mean(quest(ScaleRule::QuestExact), mse), 1.239e-2, 0.02, "unrounded");
  const QuantQuality unit = gaussian_quality(quest());
  expect_within(unit.relative_mse(), 2.70e-2, 0.02, "floor, sigma 1");
  expect_within(masked(unit), 7.3e-2, 0.02, "floor, sigma 1, masked");
}

}  // namespace
}  // namespace nibble
