#include "nibble/inspect/histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::random_tensor;

QuantSpec e2m1_per_row() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  return spec;
}

std::int64_t all_counts(const Histogram& h) {
  return std::accumulate(h.counts.begin(), h.counts.end(), h.zeros + h.below + h.above);
}

std::size_t bin_of(double value) { return static_cast<std::size_t>((value + 8) * 8); }

TEST(Histogram, CountsValuesInUnitsOfTheirRowsScale) {
  // Scales 0.5 and 2: in their units 6, 1, 0, -0.5 and 6, -3, 0.25, 5.
  const float x[] = {3, 0.5, 0, -0.25, 12, -6, 0.5, 10};
  Arena arena;
  const Histogram h = scaled_histogram(Tensor::of(x, {2, 4}), e2m1_per_row(), {}, arena);
  EXPECT_EQ(h.edge, 8);
  EXPECT_EQ(h.count, 8);
  EXPECT_EQ(h.zeros, 1);
  EXPECT_EQ(all_counts(h), 8);
  EXPECT_EQ(h.counts[bin_of(6)], 2);
  for (const double value : {1.0, -0.5, -3.0, 0.25, 5.0}) EXPECT_EQ(h.counts[bin_of(value)], 1) << value;
}

TEST(Histogram, WhatAClampCutsOffLiesBeyondTheGrid) {
  OwnedTensor x(DType::F32, {1, 200});
  for (int i = 0; i < 200; ++i) x.view().data<float>()[i] = i == 0 ? 1000.0f : static_cast<float>(i % 7 - 3);
  QuantSpec spec = e2m1_per_row();
  spec.clamp = {.alpha = 0.99, .per_row = true, .residual = ResidualMode::Sparse};
  Arena arena;
  const Histogram h = scaled_histogram(x, spec, {}, arena);
  EXPECT_EQ(h.above, 1);  // 3 is the clamp's bound: 1000 / 0.5 = 2000
  EXPECT_EQ(h.below, 0);
  EXPECT_EQ(h.counts[bin_of(6)] + h.counts[bin_of(6) - 1], 28);  // the threes, but for rounding of 1/s
}

TEST(Histogram, OfBlocksTransposedAndRotatedIsThatOfEachElementByItsScale) {
  const OwnedTensor x = random_tensor(DType::BF16, {64, 48}, 3);
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Nvfp4;
  spec.granularity = Granularity::block(1, 16);
  spec.transposed = true;
  spec.hadamard = {.group = 16, .signs = Hadamard::Signs::Step};
  QuantizeContext context;
  context.signs = {1, 2, 3};
  Arena arena;
  const Histogram h = scaled_histogram(x, spec, context, arena);

  const QTensor q = quantize(x, spec, context, arena);
  QuantSpec plain;
  plain.element = ElementFormat::F32;
  plain.transposed = true;
  plain.hadamard = spec.hadamard;
  const QTensor values = quantize(x, plain, context, arena);
  Histogram expected;
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const double z = static_cast<double>(values.value_at(r, c)) / static_cast<double>(q.scale_at(r, c));
      ASSERT_LT(std::abs(z), 8);
      ++(z == 0 ? expected.zeros : expected.counts[bin_of(z)]);
    }
  }
  EXPECT_EQ(q.rows, 48);
  EXPECT_EQ(h.counts, expected.counts);
  EXPECT_EQ(h.zeros, expected.zeros);
  EXPECT_EQ(h.count, 64 * 48);
}

TEST(Histogram, AnUnquantisedOperandIsInUnitsOfItsRms) {
  const float x[] = {1, -1, 1, -1};
  Arena arena;
  QuantSpec spec;
  const Histogram h = scaled_histogram(Tensor::of(x, {2, 2}), spec, {}, arena);
  EXPECT_EQ(h.counts[bin_of(1)], 2);
  EXPECT_EQ(h.counts[bin_of(-1)], 2);
  EXPECT_TRUE(grid_of(h.element).empty());
}

TEST(Histogram, ZerosAndEmptyTensorsAreInNoBin) {
  Arena arena;
  const Histogram zeros = scaled_histogram(OwnedTensor(DType::F32, {3, 5}), e2m1_per_row(), {}, arena);
  EXPECT_EQ(zeros.zeros, 15);
  EXPECT_EQ(all_counts(zeros), 15);
  EXPECT_EQ(scaled_histogram(OwnedTensor(DType::F32, {0, 5}), e2m1_per_row(), {}, arena).count, 0);
}

TEST(Histogram, GridsAreTheFormatsValues) {
  EXPECT_EQ(grid_of(ElementFormat::E2M1),
            (std::vector<double>{-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6}));
  EXPECT_EQ(grid_of(ElementFormat::Int4).front(), -7);
  EXPECT_EQ(grid_of(ElementFormat::Int4).size(), 15u);
  EXPECT_EQ(grid_of(ElementFormat::E3M0).back(), 16);
  EXPECT_EQ(grid_of(ElementFormat::E4M3), (std::vector<double>{-448, 448}));
}

TEST(Histogram, TheDrawingHasALineForEachValueOfTheFormat) {
  Arena arena;
  const Histogram h = scaled_histogram(random_tensor(DType::F32, {8, 64}, 4), e2m1_per_row(), {}, arena);
  const std::string svg = draw(h, "a < b", 2);
  std::size_t lines = 0;
  for (std::size_t at = 0; (at = svg.find("<line", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 15u + 1u);  // and the axis
  EXPECT_NE(svg.find("class=\"bar k2\""), std::string::npos);
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(draw(Histogram{.edge = 8}, "empty", 1).find("nan"), std::string::npos);
}

}  // namespace
}  // namespace nibble
