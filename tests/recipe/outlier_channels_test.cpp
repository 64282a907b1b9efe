#include "nibble/recipe/outlier_channels.h"

#include <gtest/gtest.h>

#include "nibble/recipe/columns.h"
#include "tests/recipe/linear_testing.h"

namespace nibble {
namespace {

using testing::error;
using testing::Layer;
using testing::Matrix;
using testing::mxfp8;
using testing::nvfp4;
using testing::recipe_of;
using testing::Shape;
using testing::stored;
using testing::transposed;
using testing::values;

constexpr Shape kShape{64, 96, 48};

std::vector<std::int32_t> chosen(const OutlierSelection& s) {
  const auto* p = s.channels().data<std::int32_t>();
  return {p, p + s.channels().numel()};
}

TEST(OutlierSelection, ChoosesTheLargestNormsOfItsStepsAndKeepsThem) {
  OutlierSelection selection({.share = 0.25, .multiple = 2, .first_step = 5, .last_step = 6, .quant = mxfp8()}, 12);
  OwnedTensor x(DType::F32, {3, 12});
  const auto with = [&](std::int64_t a, std::int64_t b) {
    fill_zero(x);
    x.view().data<float>()[12 + a] = -3;
    x.view().data<float>()[24 + b] = 2;
    return x.view();
  };
  selection.observe(with(0, 1), 4);  // before its steps
  selection.finish_step(4);
  EXPECT_FALSE(selection.chosen());
  EXPECT_EQ(chosen(selection), std::vector<std::int32_t>(4, -1));  // 3 channels, rounded up to twos
  selection.observe(with(9, 3), 5);
  selection.finish_step(5);
  EXPECT_FALSE(selection.chosen());
  selection.observe(with(7, 3), 6);
  selection.observe(with(2, 7), 6);  // a second micro-batch
  selection.finish_step(6);
  ASSERT_TRUE(selection.chosen());
  EXPECT_EQ(chosen(selection), (std::vector<std::int32_t>{2, 3, 7, 9}));
  selection.observe(with(11, 11), 7);
  selection.finish_step(7);
  EXPECT_EQ(chosen(selection), (std::vector<std::int32_t>{2, 3, 7, 9}));
  Arena arena;
  const Tensor others = selection.others(arena);
  for (std::int64_t c = 0; c < 12; ++c) {
    EXPECT_EQ(others.data<float>()[c], c == 2 || c == 3 || c == 7 || c == 9 ? 0.0f : 1.0f);
  }
}

TEST(OutlierSelection, ChoosesNothingFromNothing) {
  OutlierSelection selection({.share = 0.5, .multiple = 1, .first_step = 1, .last_step = 2, .quant = mxfp8()}, 4);
  selection.finish_step(7);  // a run that was resumed behind its steps, or a stage that begins there
  EXPECT_FALSE(selection.chosen());
}

TEST(OutlierSelection, RoundsUpToAllChannelsAtMost) {
  const auto count = [](double share, std::int64_t multiple, std::int64_t channels) {
    return OutlierSelection({share, multiple, 1, 2, mxfp8()}, channels).channels().numel();
  };
  EXPECT_EQ(count(0.1, 128, 768), 128);
  EXPECT_EQ(count(0.1, 128, 2048), 256);
  EXPECT_EQ(count(0.1, 128, 96), 96);
  EXPECT_EQ(count(1, 32, 96), 96);
}

TEST(Columns, GatherAndScatterAreEachOthersInverse) {
  OwnedTensor columns(DType::I32, {3});
  const std::int32_t picked[] = {1, 4, 6};
  std::copy_n(picked, 3, columns.view().data<std::int32_t>());
  for (const DType dtype : {DType::F32, DType::BF16}) {
    OwnedTensor x(dtype, {5, 7});
    OwnedTensor part(dtype, {5, 3});
    OwnedTensor wide(DType::F32, {5, 7});
    for (int i = 0; i < 35; ++i) wide.view().data<float>()[i] = static_cast<float>(i + 1);
    convert(wide, x);
    gather_columns(x, columns, part);
    OwnedTensor part32(DType::F32, {5, 3});
    convert(part, part32);
    for (int r = 0; r < 5; ++r) {
      for (int j = 0; j < 3; ++j) EXPECT_EQ(part32.view().data<float>()[r * 3 + j], r * 7 + picked[j] + 1);
    }
    const Matrix before = values(x);
    zero_columns(x, columns);
    Matrix zeroed = before;
    for (std::size_t r = 0; r < 5; ++r) {
      for (const std::int32_t c : picked) zeroed[r * 7 + static_cast<std::size_t>(c)] = 0;
    }
    EXPECT_EQ(values(x), zeroed);
    scatter_columns(part32, columns, x, Accumulate::Add);
    EXPECT_EQ(values(x), before);
    scatter_columns(part32, columns, x, Accumulate::Overwrite);
    EXPECT_EQ(values(x), before);
  }
}

TEST(Columns, SquaresAddUpOverRowsAndCalls) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  OwnedTensor x(DType::BF16, {41, 1030});
  OwnedTensor sums(DType::F32, {1030});
  for (std::int64_t i = 0; i < x.view().numel(); ++i) x.view().data<bf16>()[i] = bf16_encode(normal(rng));
  add_column_squares(x, sums);
  add_column_squares(x, sums);
  const Matrix m = values(x);
  for (std::size_t c = 0; c < 1030; ++c) {
    double sum = 0;
    for (std::size_t r = 0; r < 41; ++r) sum += 2 * m[r * 1030 + c] * m[r * 1030 + c];
    EXPECT_NEAR(sums.view().data<float>()[c], sum, 1e-6 * sum);
  }
}

LinearRecipe nvfp4_everywhere(OperandSource dgrad_w, OperandSource wgrad_x) {
  LinearRecipe r;
  r[Operand::FpropX].quant = r[Operand::FpropW].quant = r[Operand::DgradDy].quant = nvfp4();
  for (const Operand o : {Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
    r[o].quant = nvfp4(Rounding::NearestEven, true);
  }
  r[Operand::DgradW].source = dgrad_w;
  r[Operand::WgradX].source = wgrad_x;
  for (const Operand o : {Operand::DgradW, Operand::WgradX}) {
    if (r[o].source == OperandSource::Fprop) r[o].quant = {};
  }
  r.outlier_channels = {.share = 0.25, .multiple = 8, .first_step = 3, .last_step = 3, .quant = mxfp8()};
  return r;
}

/// One step that counts the channels, then one with the choice.
void run_two_steps(Layer& l) {
  l.run();
  l.linear.after_update(l.w, l.pass.step, 100, l.scratch);
  ++l.pass.step;
  l.run();
}

TEST(OutlierChannels, AllChannelsEqualTheMxfp8Products) {
  LinearRecipe r = nvfp4_everywhere(OperandSource::HighPrecision, OperandSource::HighPrecision);
  r.outlier_channels.share = 1;
  Layer all(recipe_of(r), kShape);
  run_two_steps(all);
  r[Operand::FpropX].quant = r[Operand::FpropW].quant = mxfp8();
  r[Operand::WgradDy].quant = r[Operand::WgradX].quant = mxfp8(true);
  r.outlier_channels = {};
  Layer fp8(recipe_of(r), kShape);
  fp8.run();
  EXPECT_EQ(values(all.y), values(fp8.y));
  EXPECT_EQ(values(all.dw), values(fp8.dw));
  EXPECT_EQ(values(all.dx), values(fp8.dx));  // dgrad has no part in it
}

class OutlierSources : public ::testing::TestWithParam<std::pair<OperandSource, OperandSource>> {};

TEST_P(OutlierSources, OutlierColumnsRunInMxfp8BesideTheFp4OfTheOthers) {
  const auto [dgrad_w, wgrad_x] = GetParam();
  Layer l(recipe_of(nvfp4_everywhere(dgrad_w, wgrad_x)), kShape);
  run_two_steps(l);

  // The 24 channels with the largest norms, and X and W without them.
  const Matrix x = values(l.x);
  std::vector<std::pair<double, std::int64_t>> norms;
  for (std::int64_t c = 0; c < kShape.in; ++c) {
    double sum = 0;
    for (std::int64_t t = 0; t < kShape.tokens; ++t) sum += std::pow(x[static_cast<std::size_t>(t * kShape.in + c)], 2);
    norms.emplace_back(-sum, c);
  }
  std::sort(norms.begin(), norms.end());
  OwnedTensor columns(DType::I32, {24});
  for (std::size_t j = 0; j < 24; ++j) {
    columns.view().data<std::int32_t>()[j] = static_cast<std::int32_t>(norms[j].second);
  }
  std::sort(columns.view().data<std::int32_t>(), columns.view().data<std::int32_t>() + 24);
  const auto split = [&](const Tensor& t, OwnedTensor& part, OwnedTensor& rest) {
    part = OwnedTensor(t.dtype(), {t.rows(), 24});
    rest = OwnedTensor(t.dtype(), {t.rows(), t.cols()});
    gather_columns(t, columns, part);
    convert(t, rest);
    zero_columns(rest, columns);
  };
  OwnedTensor x_part, x_rest, w_part, w_rest;
  split(l.x, x_part, x_rest);
  split(l.w, w_part, w_rest);
  const auto q = [&](const Tensor& t, const QuantSpec& spec) { return quantize(t, spec, {}, l.arena); };
  const auto spread = [&](const Matrix& part, std::int64_t rows) {
    Matrix whole(static_cast<std::size_t>(rows * kShape.in));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < 24; ++j) {
        whole[static_cast<std::size_t>(r * kShape.in + columns.view().data<std::int32_t>()[j])] =
            part[static_cast<std::size_t>(r * 24 + j)];
      }
    }
    return whole;
  };
  const auto plus = [](Matrix a, const Matrix& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  };
  const LinearRecipe& r = l.linear.recipe();
  const Matrix x8 = spread(stored(q(x_part, mxfp8())), kShape.tokens);
  const Matrix w8 = spread(stored(q(w_part, mxfp8())), kShape.out);
  const QTensor x4 = q(x_rest, nvfp4());
  const QTensor w4 = q(w_rest, nvfp4());
  EXPECT_LT(error(l.y, plus(l.fprop(stored(x4), stored(w4)), l.fprop(x8, w8))), 2e-6);

  // dgrad sees the whole of W: as it is, or as fprop's products did.
  OwnedTensor forward_w(DType::F32, {kShape.out, kShape.in});
  const Matrix w_values = plus(stored(w4), w8);
  for (std::size_t i = 0; i < w_values.size(); ++i) {
    forward_w.view().data<float>()[i] = static_cast<float>(w_values[i]);
  }
  Matrix w_in_dgrad = w_values;
  if (dgrad_w != OperandSource::Fprop) {
    const Tensor from = dgrad_w == OperandSource::Requantise ? forward_w.view() : l.w.view();
    w_in_dgrad = transposed(stored(q(from, r[Operand::DgradW].quant)), kShape.in, kShape.out);
  }
  EXPECT_LT(error(l.dx, l.dgrad(stored(q(l.dy, nvfp4())), w_in_dgrad)), 2e-6);

  // wgrad keeps them apart again.
  const Matrix dy4 = transposed(stored(q(l.dy, r[Operand::WgradDy].quant)), kShape.out, kShape.tokens);
  const Matrix dy8 = transposed(stored(q(l.dy, mxfp8(true))), kShape.out, kShape.tokens);
  OwnedTensor forward_x(DType::F32, {kShape.tokens, kShape.in});
  dequantize(x4, forward_x);
  OwnedTensor forward_part(DType::F32, {kShape.tokens, 24});
  dequantize(q(x_part, mxfp8()), forward_part);
  const bool saved = wgrad_x != OperandSource::HighPrecision;
  const Matrix x4_in_wgrad =
      wgrad_x == OperandSource::Fprop
          ? stored(x4)
          : transposed(stored(q(saved ? forward_x.view() : x_rest.view(), r[Operand::WgradX].quant)), kShape.in,
                       kShape.tokens);
  const Matrix x8_in_wgrad =
      spread(transposed(stored(q(saved ? forward_part.view() : x_part.view(), mxfp8(true))), 24, kShape.tokens),
             kShape.tokens);
  EXPECT_LT(error(l.dw, plus(l.wgrad(dy4, x4_in_wgrad), l.wgrad(dy8, x8_in_wgrad))), 2e-6);
}

INSTANTIATE_TEST_SUITE_P(Sources, OutlierSources,
                         ::testing::Values(std::pair{OperandSource::HighPrecision, OperandSource::HighPrecision},
                                           std::pair{OperandSource::Requantise, OperandSource::Requantise},
                                           std::pair{OperandSource::Fprop, OperandSource::Fprop}));

TEST(OutlierChannels, AnUnquantisedWgradTakesXAsAWhole) {
  LinearRecipe r = nvfp4_everywhere(OperandSource::HighPrecision, OperandSource::HighPrecision);
  r[Operand::WgradX].quant = r[Operand::WgradDy].quant = {};
  Layer l(recipe_of(r), kShape);
  run_two_steps(l);
  ASSERT_TRUE(l.saved.outliers.codes.defined());
  EXPECT_LT(error(l.dw, l.wgrad(values(l.dy), values(l.x))), 2e-6);
}

TEST(OutlierChannels, AForwardPassAloneCountsNothing) {
  Layer l(recipe_of(nvfp4_everywhere(OperandSource::Fprop, OperandSource::Fprop)), kShape);
  l.prepare();
  l.forward();
  double sum = 0;
  l.linear.visit_state(l.w, [&](const std::string& name, const Tensor& t) {
    if (name == "outlier_norms") {
      for (const double v : values(t)) sum += v;
    }
  });
  EXPECT_EQ(sum, 0);
}

}  // namespace
}  // namespace nibble
