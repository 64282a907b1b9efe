#include "nibble/quant/cpu/four_over_six.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "tests/quant/each_target.h"

namespace nibble {
namespace {

struct Errors {
  std::vector<float> six;
  std::vector<float> four;
};

/// Scales of a block: six and, half as large again, four.
struct Scales {
  std::vector<float> multiplier6, decode6, multiplier4, decode4;
  explicit Scales(const std::vector<float>& six) : decode6(six) {
    for (const float s : six) {
      multiplier6.push_back(1.0f / s);
      decode4.push_back(1.5f * s);
      multiplier4.push_back(1.0f / (1.5f * s));
    }
  }
};

Errors run(const std::vector<float>& y, std::int64_t block, Rounding rounding, Selection selection,
           const Scales& scales, Errors errors) {
  quant_cpu::four_over_six_errors(y.data(), static_cast<std::int64_t>(y.size()), block, rounding, selection,
                                  scales.multiplier6.data(), scales.decode6.data(), scales.multiplier4.data(),
                                  scales.decode4.data(), errors.six.data(), errors.four.data());
  return errors;
}

float rounded(float z, Rounding rounding) {
  switch (rounding) {
    case Rounding::NearestUp: return e2m1_decode(e2m1_encode<Tie::Up>(z));
    case Rounding::NearestZero: return e2m1_decode(e2m1_encode<Tie::Zero>(z));
    case Rounding::NearestAway: return e2m1_decode(e2m1_encode<Tie::Away>(z));
    default: return e2m1_decode(e2m1_encode<Tie::Even>(z));
  }
}

/// Sixteen lanes and their halves, as the header says.
float defined_error(const float* y, std::size_t n, Rounding rounding, Selection selection, float multiplier,
                    float decode, float before) {
  float lanes[16] = {};
  for (std::size_t i = 0; i < n; ++i) {
    const float e = y[i] - rounded(y[i] * multiplier, rounding) * decode;
    float& lane = lanes[i % 16];
    if (selection == Selection::Mse) lane += e * e;
    if (selection == Selection::Mae) lane += std::abs(e);
    if (selection == Selection::MaxAbs) lane = std::max(lane, std::abs(e));
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) {
      lanes[l] = selection == Selection::MaxAbs ? std::max(lanes[l], lanes[l + half]) : lanes[l] + lanes[l + half];
    }
  }
  return selection == Selection::MaxAbs ? std::max(before, lanes[0]) : before + lanes[0];
}

constexpr Rounding kRoundings[] = {Rounding::NearestEven, Rounding::NearestUp, Rounding::NearestZero,
                                   Rounding::NearestAway};
constexpr Selection kSelections[] = {Selection::Mse, Selection::Mae, Selection::MaxAbs};

void expect_bits_of_the_definition() {
  constexpr std::uint32_t kSeed = 12;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 generator(kSeed);
  std::uniform_real_distribution<float> uniform(0.01f, 3.0f);
  std::normal_distribution<float> normal;
  for (std::int64_t n = 0; n <= 70; ++n) {
    for (const std::int64_t block : {4, 16, 20, 32, 48}) {
      const auto blocks = static_cast<std::size_t>((n + block - 1) / block);
      std::vector<float> six(blocks);
      for (float& s : six) s = uniform(generator);
      std::vector<float> y(static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < y.size(); ++i) {
        // Half of them on midpoints of the grid, where the tie rules differ.
        const float s = six[i / static_cast<std::size_t>(block)];
        y[i] = i % 2 == 0 ? 3 * normal(generator) : static_cast<float>(static_cast<int>(generator() % 57) - 28) / 4 * s;
      }
      const Scales scales(six);
      const Errors before = {std::vector<float>(blocks, 0.125f), std::vector<float>(blocks, 2.0f)};
      for (const Rounding rounding : kRoundings) {
        for (const Selection selection : kSelections) {
          const Errors got = run(y, block, rounding, selection, scales, before);
          for (std::size_t j = 0; j < blocks; ++j) {
            const std::size_t begin = j * static_cast<std::size_t>(block);
            const std::size_t count = std::min(y.size() - begin, static_cast<std::size_t>(block));
            ASSERT_EQ(got.six[j], defined_error(&y[begin], count, rounding, selection, scales.multiplier6[j],
                                                scales.decode6[j], 0.125f))
                << "n " << n << ", block " << block << ", j " << j << ", rounding " << static_cast<int>(rounding)
                << ", selection " << static_cast<int>(selection);
            ASSERT_EQ(got.four[j], defined_error(&y[begin], count, rounding, selection, scales.multiplier4[j],
                                                 scales.decode4[j], 2.0f));
          }
        }
      }
    }
  }
}

TEST(FourOverSix, EqualsTheScalarDefinitionBitForBitOnEveryInstructionSet) {
  for_each_target(expect_bits_of_the_definition);
}

/// Errors of one block of sixteen under scales `six` and 1.5 `six`.
std::pair<float, float> block_errors(const std::vector<float>& y, float six, Selection selection,
                                     Rounding rounding = Rounding::NearestEven) {
  const Errors e = run(y, 16, rounding, selection, Scales({six}), {{0}, {0}});
  return {e.six[0], e.four[0]};
}

TEST(FourOverSix, FivesAreBetterServedByFour) {
  std::vector<float> y(16, 5.0f);
  y[0] = 6;
  const auto [six, four] = block_errors(y, 1.0f, Selection::Mse);
  EXPECT_EQ(six, 15.0f);
  EXPECT_FLOAT_EQ(four, 3.75f);
  EXPECT_EQ(block_errors(y, 1.0f, Selection::Mse, Rounding::NearestAway).first, 15.0f);
}

TEST(FourOverSix, ValuesOnTheGridAreBetterServedBySix) {
  std::vector<float> y;
  for (int repeat = 0; repeat < 2; ++repeat) y.insert(y.end(), {6, 4, 3, 2, 1.5, 1, .5, 0});
  const auto [six, four] = block_errors(y, 1.0f, Selection::Mse);
  EXPECT_EQ(six, 0.0f);
  EXPECT_NEAR(four, .875, 1e-6);
}

TEST(FourOverSix, PublishedBlocksHaveThePublishedErrors) {
  const std::vector<float> mixed = {6, 5.2, -4.6, 3.3, -2.7, 2.2, 1.8, -1.4, 1.1, .8, -.6, .4, .3, -.2, .1, 0};
  const auto [mixed6, mixed4] = block_errors(mixed, 1.0f, Selection::Mse);
  EXPECT_NEAR(mixed6, 1.43, 1e-5);
  EXPECT_NEAR(mixed4, 1.1925, 1e-5);
  std::vector<float> steps;
  for (int i = -8; i < 8; ++i) steps.push_back(static_cast<float>(i) / 2);
  const auto [steps6, steps4] = block_errors(steps, 2.0f / 3, Selection::Mse);
  EXPECT_NEAR(steps6, .888889, 1e-5);
  EXPECT_NEAR(steps4, 1.0, 1e-5);
}

TEST(FourOverSix, RowsOfABlockAddUp) {
  const std::vector<float> y = {6, 5.2, -4.6, 3.3, -2.7, 2.2, 1.8, -1.4, 1.1, .8, -.6, .4, .3, -.2, .1, 0};
  const Scales scales({1.0f});
  for (const Selection selection : kSelections) {
    const Errors once = run(y, 16, Rounding::NearestEven, selection, scales, {{0}, {0}});
    const Errors twice = run(y, 16, Rounding::NearestEven, selection, scales, once);
    const float factor = selection == Selection::MaxAbs ? 1 : 2;
    EXPECT_EQ(twice.six[0], factor * once.six[0]);
    EXPECT_EQ(twice.four[0], factor * once.four[0]);
  }
}

TEST(FourOverSix, RoundingsThatAreNotToNearestAreJudgedAsNearestEven) {
  std::vector<float> y(16, 5.0f);
  y[3] = 2.5f;
  const auto want = block_errors(y, 1.0f, Selection::Mse);
  for (const Rounding rounding : {Rounding::Stochastic, Rounding::Stochastic8, Rounding::Eden, Rounding::Reference}) {
    EXPECT_EQ(block_errors(y, 1.0f, Selection::Mse, rounding), want);
  }
}

}  // namespace
}  // namespace nibble
