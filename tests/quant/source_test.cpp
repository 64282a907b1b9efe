// What happens to x before the clamp: transposition and the Hadamard transform; and what happens to the residual after.
#include "nibble/quant/cpu/source.h"

#include <gtest/gtest.h>

#include "nibble/quant/hadamard.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

Hadamard some_transform(std::uint64_t seed, std::int64_t cols) {
  Hadamard h;
  const std::int64_t groups[] = {2, 4, 8, 16, 32, 64, 128, 256};
  for (const std::int64_t g : groups) {
    if (cols % g == 0 && (h.group == 0 || seed % 3 != 0)) h.group = g;
  }
  if (h.group == 0) return {};
  h.signs = static_cast<Hadamard::Signs>(seed % 4);
  if (h.signs == Hadamard::Signs::Vector && h.group != 16) h.signs = Hadamard::Signs::Call;
  h.signs_last = seed % 5 == 0;
  return h;
}

TEST(Source, TransposedAndRotatedRowsGiveTheCodesOfTheReference) {
  std::uint64_t seed = 0;
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 64}, {64, 1}, {33, 70}, {80, 48}, {256, 24}}) {
    for (Case c : cases()) {
      if (++seed % 2 == 0 && rows * cols > 4000) continue;
      c.spec.transposed = seed % 4 != 0;
      if (seed % 3 != 0) c.spec.hadamard = some_transform(seed, c.spec.transposed ? rows : cols);
      const DType dtype = seed % 5 < 2 ? DType::F32 : DType::BF16;
      SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype) << " [" << rows << ", " << cols
                                      << "], seed " << seed << " group " << c.spec.hadamard.group);
      std::vector<float> values = awkward_values(rows * cols, seed);
      const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
      const CaseContext given = case_context(c, x, seed);
      Arena arena;
      const QTensor q = quantize(x, c.spec, given.context, arena);
      EXPECT_EQ(q.hadamard, c.spec.hadamard);
      const reference::Result want = reference::quantize(values, rows, cols, c.spec, given.context);
      expect_same(q, want);
      if (c.spec.clamp.residual == ResidualMode::Sparse) expect_residual(q.residual, want);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Source, ATransposedRotatedOperandIsTheOperandOfTheTransposedRotatedMatrix) {
  std::vector<float> x = reference::gaussian(200 * 96, 4);
  const std::vector<float> xt = reference::transpose(x, 96, 200);
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4, Rounding::Stochastic);
  spec.transposed = true;
  spec.hadamard = {32, Hadamard::Signs::Call, false};
  QuantizeContext context;
  context.random = {1, 2, 3};
  context.signs = {4, 5, 6};
  Arena arena;
  const QTensor q = quantize(Tensor::of(x.data(), {96, 200}), spec, context, arena);
  const OwnedTensor rotated(DType::F32, {200, 96});
  hadamard_forward(Tensor::of(xt.data(), {200, 96}), spec.hadamard, context.signs, rotated);
  QuantSpec plain = spec;
  plain.transposed = false;
  plain.hadamard = {};
  const QTensor want = quantize(rotated, plain, context, arena);
  ASSERT_EQ(q.rows, 200);
  for (std::int64_t r = 0; r < 200; ++r) {
    for (std::int64_t c = 0; c < 96; ++c) ASSERT_EQ(q.value_at(r, c), want.value_at(r, c)) << r << " " << c;
  }
}

TEST(Source, SquareTilesOfAMatrixAndOfItsTransposeHoldTheSameValues) {
  std::vector<float> x = reference::gaussian(70 * 52, 9);
  const Tensor tensor = Tensor::of(x.data(), {70, 52});
  for (const Selection selection : {Selection::None, Selection::MaxAbs}) {
    QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(16, 16), ScaleRule::Nvfp4);
    spec.nvfp4.selection = selection;
    Arena arena;
    const QTensor q = quantize(tensor, spec, {}, arena);
    spec.transposed = true;
    const QTensor t = quantize(tensor, spec, {}, arena);
    for (std::int64_t r = 0; r < 70; ++r) {
      for (std::int64_t c = 0; c < 52; ++c) ASSERT_EQ(q.value_at(r, c), t.value_at(c, r)) << r << " " << c;
    }
  }
  // Blocks within a row are another matter.
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
  Arena arena;
  const QTensor q = quantize(tensor, spec, {}, arena);
  spec.transposed = true;
  const QTensor t = quantize(tensor, spec, {}, arena);
  int different = 0;
  for (std::int64_t r = 0; r < 70; ++r) {
    for (std::int64_t c = 0; c < 52; ++c) different += q.value_at(r, c) != t.value_at(c, r) ? 1 : 0;
  }
  EXPECT_GT(different, 1000);
}

TEST(Source, AGroupThatDoesNotDivideTheRowsIsRefused) {
  const OwnedTensor x(DType::F32, {48, 40});
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax);
  spec.hadamard.group = 16;
  Arena arena;
  EXPECT_THROW(quantize(x, spec, {}, arena), UserError);
  spec.transposed = true;  // 48 is a multiple of 16
  EXPECT_NO_THROW(quantize(x, spec, {}, arena));
}

TEST(DenseResidual, MakesABf16OperandOfTheValuesAndWhatWasCutOff) {
  std::uint64_t seed = 40;
  for (const bool per_row : {true, false}) {
    for (const bool transposed : {true, false}) {
      for (Case c : cases()) {
        if (!has_scale(c.spec.element) || ++seed % 3 != 0) continue;
        c.spec.clamp = {0.95, per_row, ResidualMode::Dense};
        c.spec.transposed = transposed;
        SCOPED_TRACE(testing::Message() << c.name << ", seed " << seed);
        const DType dtype = seed % 2 == 0 ? DType::F32 : DType::BF16;
        std::vector<float> values = awkward_values(48 * 80, seed);
        const OwnedTensor x = reference::make_tensor(dtype, 48, 80, values);
        const CaseContext given = case_context(c, x, seed);
        Arena arena;
        const QTensor q = quantize(x, c.spec, given.context, arena);
        const reference::Result want = reference::quantize(values, 48, 80, c.spec, given.context);
        EXPECT_EQ(q.element, ElementFormat::BF16);
        EXPECT_FALSE(q.residual.defined());
        EXPECT_EQ(q.mask.defined(), c.spec.trust_mask);
        for (std::int64_t r = 0; r < q.rows; ++r) {
          for (std::int64_t col = 0; col < q.cols; ++col) {
            const auto i = static_cast<std::size_t>(r * q.cols + col);
            ASSERT_EQ(q.value_at(r, col), reference::to_bf16(want.values[i] + (want.y[i] - want.clamped[i])))
                << r << " " << col;
          }
        }
      }
    }
  }
}

TEST(DenseResidual, KeepsTheScalesOfTheElements) {
  std::vector<float> x = reference::gaussian(20 * 64, 3);
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Absmax);
  spec.clamp = {0.95, true, ResidualMode::Dense};
  Arena arena;
  const QTensor q = quantize(Tensor::of(x.data(), {20, 64}), spec, {}, arena);
  const reference::Result want = reference::quantize(x, 20, 64, spec, {});
  EXPECT_EQ(q.element_granularity, spec.granularity);
  for (std::int64_t r = 0; r < 20; ++r) {
    for (std::int64_t c = 0; c < 64; ++c) {
      ASSERT_EQ(q.element_scales.data<float>()[r * 4 + c / 16], want.block_scale[static_cast<std::size_t>(r * 64 + c)]);
    }
  }
}

}  // namespace
}  // namespace nibble
