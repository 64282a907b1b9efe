#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/eden.h"
#include "tests/quant/each_target.h"

namespace nibble {
namespace {

struct Row {
  std::vector<float> y;
  std::vector<float> multiplier;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<std::uint32_t> words;

  std::vector<std::uint8_t> corrected(std::int64_t group) const {
    std::vector<std::uint8_t> out(scales.size());
    quant_cpu::eden_scales(y.data(), multiplier.data(), codes.data(), static_cast<std::int64_t>(y.size()), group,
                           scales.data(), words.data(), out.data());
    return out;
  }
};

float correction(const Row& row, std::size_t begin, std::size_t end) {
  float square[16] = {};
  float product[16] = {};
  for (std::size_t i = begin; i < end; ++i) {
    const float z = row.y[i] * row.multiplier[i / 16];
    square[i % 16] += z * z;
    product[i % 16] += z * e2m1_decode(row.codes[i]);
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) {
      square[l] += square[l + half];
      product[l] += product[l + half];
    }
  }
  const float s = square[0] / product[0];
  return product[0] == 0 || !std::isfinite(s) ? 1.0f : s;
}

std::vector<std::uint8_t> by_definition(const Row& row, std::size_t group) {
  std::vector<std::uint8_t> out(row.scales.size());
  for (std::size_t j = 0; j < out.size(); ++j) {
    const std::size_t begin = 16 * j / group * group;
    const float s = correction(row, begin, std::min(row.y.size(), begin + group));
    out[j] = e4m3_encode_stochastic(e4m3_decode(row.scales[j]) * s, row.words[j] >> 8);
  }
  return out;
}

Row random_row(std::int64_t n, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Row row;
  const auto blocks = static_cast<std::size_t>((n + 15) / 16);
  for (std::size_t j = 0; j < blocks; ++j) {
    row.multiplier.push_back(std::exp(normal(generator)));
    row.scales.push_back(static_cast<std::uint8_t>(generator() % 0x7F));
    row.words.push_back(static_cast<std::uint32_t>(generator()));
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    row.y.push_back(3 * normal(generator) / row.multiplier[i / 16]);
    row.codes.push_back(e2m1_encode<Tie::Even>(row.y[i] * row.multiplier[i / 16]));
  }
  return row;
}

TEST(EdenRow, EqualsTheScalarDefinitionBitForBitOnEveryInstructionSet) {
  for_each_target([] {
    for (std::int64_t n = 0; n <= 70; ++n) {
      const Row row = random_row(n, static_cast<std::uint32_t>(n));
      for (const std::size_t group : {16u, 32u, 48u, 64u}) {
        ASSERT_EQ(row.corrected(static_cast<std::int64_t>(group)), by_definition(row, group)) << n << ", " << group;
      }
    }
  });
}

TEST(EdenRow, LongRowsAndLargeGroupsToo) {
  const Row row = random_row(16 * 700 + 5, 99);
  for (const std::size_t group : {16u, 128u, 16u * 300, 16u * 1000}) {
    ASSERT_EQ(row.corrected(static_cast<std::int64_t>(group)), by_definition(row, group)) << group;
  }
}

/// The published block: tensor amax 6, no rotation, ties away from zero.
Row published() {
  Row row;
  row.y = {6, 5.2, -4.6, 3.3, -2.7, 2.2, 1.8, -1.4, 1.1, .8, -.6, .4, .3, -.2, .1, 0};
  const float tensor_scale = 6.0f / 255.99f / (6.0f / 0.988125f);
  EXPECT_NEAR(tensor_scale, .003860014, 1e-9);
  row.scales = {0x78};
  row.multiplier = {1 / (256.0f * tensor_scale)};
  EXPECT_NEAR(1 / row.multiplier[0], .98816359, 1e-7);
  row.words = {0};
  for (const float v : row.y) row.codes.push_back(e2m1_encode<Tie::Away>(v * row.multiplier[0]));
  return row;
}

TEST(EdenRow, ThePublishedBlockHasThePublishedCorrection) {
  Row row = published();
  std::vector<float> values;
  for (const std::uint8_t code : row.codes) values.push_back(e2m1_decode(code));
  EXPECT_EQ(values, (std::vector<float>{6, 6, -4, 3, -3, 2, 2, -1.5, 1, 1, -.5, .5, .5, 0, 0, 0}));
  double square = 0;
  double product = 0;
  for (std::size_t i = 0; i < 16; ++i) {
    const double z = static_cast<double>(row.y[i]) * row.multiplier[0];
    square += z * z;
    product += z * values[i];
  }
  EXPECT_NEAR(square, 117.699796, 1e-4);
  EXPECT_NEAR(product, 117.642464, 1e-4);
  EXPECT_NEAR(correction(row, 0, 16), 1.00048734, 1e-6);
}

TEST(EdenRow, ThePublishedBlockGoesUpWithThePublishedProbability) {
  Row row = published();
  std::uint32_t below = 0;  // random numbers below it give 288
  std::uint32_t above = 1u << 24;
  while (below < above) {
    const std::uint32_t middle = below + (above - below) / 2;
    row.words[0] = middle << 8;
    const float scale = e4m3_decode(row.corrected(16)[0]);
    ASSERT_TRUE(scale == 256.0f || scale == 288.0f) << scale;
    if (scale == 288.0f) {
      below = middle + 1;
    } else {
      above = middle;
    }
  }
  EXPECT_NEAR(below / 0x1p24, .0038987, 2e-6);  // 256.124759 in F32 is known to 1.5e-5, of 32 to the next scale
}

TEST(EdenRow, BlocksWithoutACorrectionKeepTheirScale) {
  Row row = random_row(48, 5);
  for (std::size_t i = 0; i < 16; ++i) row.y[i] = 0, row.codes[i] = 0;
  for (std::size_t i = 16; i < 32; ++i) row.y[i] = 0.01f / row.multiplier[1], row.codes[i] = 0;
  for (std::size_t i = 32; i < 48; ++i) row.y[i] = std::numeric_limits<float>::max(), row.codes[i] = 7;
  EXPECT_EQ(row.corrected(16), row.scales);
}

TEST(EdenRow, ScalesStayFiniteAtTheTopOfTheRange) {
  Row row = random_row(16, 6);
  row.scales[0] = 0x7E;
  for (std::size_t i = 0; i < 16; ++i) row.y[i] = 1.2f / row.multiplier[0], row.codes[i] = 2;  // S = 1.2
  for (const std::uint32_t word : {0u, 0x8000'0000u, 0xFFFF'FFFFu}) {
    row.words[0] = word;
    EXPECT_EQ(row.corrected(16)[0], 0x7E);
  }
}

TEST(EdenRow, TheMeanOfTheCorrectedValuesProjectsOntoTheRow) {
  // With s' = s S on average, <z, q s'> = <z, z> s: no shrinkage along the row.
  Row row = random_row(16, 8);
  row.scales[0] = 0x60;
  constexpr std::uint32_t kDraws = 1u << 14;
  double mean = 0;
  for (std::uint32_t i = 0; i < kDraws; ++i) {
    row.words[0] = i << 18;  // evenly over the unit interval
    mean += e4m3_decode(row.corrected(16)[0]) / static_cast<double>(kDraws);
  }
  double square = 0;
  double product = 0;
  for (std::size_t i = 0; i < 16; ++i) {
    const double z = static_cast<double>(row.y[i]) * row.multiplier[0];
    square += z * z;
    product += z * e2m1_decode(row.codes[i]);
  }
  EXPECT_NEAR(product * mean / (square * 32.0), 1.0, 1e-5);
}

}  // namespace
}  // namespace nibble
