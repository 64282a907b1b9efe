// Parts of a matrix, quantised apart under the magnitudes that they share, are the parts of the quantised matrix.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/quant/shared_amax_cases.h"

namespace nibble {
namespace {

constexpr std::int64_t kRows = 200;
constexpr std::int64_t kCols = 96;

/// Rows that grow towards the end: a part's own magnitudes are seldom those of the whole.
OwnedTensor matrix(DType dtype) {
  OwnedTensor x(DType::F32, {kRows, kCols});
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < kRows * kCols; ++i) {
    x.view().data<float>()[i] = normal(rng) * (1.0f + 0.03f * static_cast<float>(i / kCols));
  }
  OwnedTensor converted(dtype, {kRows, kCols});
  convert(x, converted);
  return converted;
}

QuantizeContext context_of(const QuantSpec& spec, std::int64_t first) {
  QuantizeContext context;
  context.random = {7, 3, 11};
  context.signs = {7, 3, 12};
  context.element_offset = static_cast<std::uint64_t>(spec.transposed ? first : first * kCols);
  context.element_stride = spec.transposed ? static_cast<std::uint64_t>(kRows) : 0;
  return context;
}

class SharedAmax : public ::testing::TestWithParam<DType> {};

TEST_P(SharedAmax, OfPartsGivesThePartsOfTheWhole) {
  const OwnedTensor x = matrix(GetParam());
  Arena arena(Device::Cpu, 1 << 20);
  for (const testing::SharedCase& c : testing::shared_cases()) {
    SCOPED_TRACE(c.name);
    const QTensor whole = quantize(x, c.spec, context_of(c.spec, 0), arena);
    const std::int64_t n = shared_amaxes(c.spec, kCols);
    ASSERT_GT(n, 0);
    OwnedTensor most(DType::I32, {n});
    // Parts of whole blocks, one of them short enough for the pass that keeps its rows in cache.
    const std::int64_t first_part = c.spec.granularity.rows == 80 ? 160 : 144;
    const std::vector<std::pair<std::int64_t, std::int64_t>> parts = {{0, first_part}, {first_part, kRows}};
    for (const auto& [begin, end] : parts) {
      OwnedTensor amax(DType::I32, {n});
      shared_amax(x.view().row_range(begin, end), c.spec, context_of(c.spec, begin), amax, arena);
      for (std::int64_t i = 0; i < n; ++i) {
        std::int32_t& m = most.view().data<std::int32_t>()[i];
        m = std::max(m, amax.view().data<std::int32_t>()[i]);
      }
    }
    for (const auto& [begin, end] : parts) {
      QuantizeContext context = context_of(c.spec, begin);
      context.amax = most;
      const QTensor part = quantize(x.view().row_range(begin, end), c.spec, context, arena);
      EXPECT_EQ(part.tensor_scale, whole.tensor_scale);
      for (std::int64_t r = 0; r < part.rows; ++r) {
        for (std::int64_t col = 0; col < part.cols; ++col) {
          const std::int64_t at_r = c.spec.transposed ? r : r + begin;
          const std::int64_t at_c = c.spec.transposed ? col + begin : col;
          ASSERT_EQ(part.scale_at(r, col), whole.scale_at(at_r, at_c)) << r << ", " << col;
          ASSERT_EQ(part.value_at(r, col), whole.value_at(at_r, at_c)) << r << ", " << col;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, SharedAmax, ::testing::Values(DType::F32, DType::BF16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(SharedAmaxes, AreThoseOfScalesThatCoverAllRows) {
  const auto count = [](Granularity granularity, ScaleRule rule, bool transposed, std::int64_t outer = 0) {
    QuantSpec spec;
    spec.element = ElementFormat::E2M1;
    spec.granularity = granularity;
    spec.scale = rule;
    spec.transposed = transposed;
    spec.nvfp4.outer = outer;
    return shared_amaxes(spec, 100);
  };
  EXPECT_EQ(count(Granularity::per_row(), ScaleRule::Absmax, false), 0);
  EXPECT_EQ(count(Granularity::per_row(), ScaleRule::Absmax, true), 100);
  EXPECT_EQ(count(Granularity::per_column(), ScaleRule::Absmax, false), 100);
  EXPECT_EQ(count(Granularity::per_column(), ScaleRule::Absmax, true), 0);
  EXPECT_EQ(count(Granularity::per_tensor(), ScaleRule::Absmax, false), 1);
  EXPECT_EQ(count(Granularity::block(0, 16), ScaleRule::Absmax, false), 7);
  EXPECT_EQ(count(Granularity::block(1, 16), ScaleRule::Nvfp4, false), 1);
  EXPECT_EQ(count(Granularity::block(1, 16), ScaleRule::Nvfp4, true, 32), 0);
  EXPECT_EQ(shared_amaxes(QuantSpec{}, 100), 0);
}

}  // namespace
}  // namespace nibble
