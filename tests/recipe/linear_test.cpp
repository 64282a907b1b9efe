// The three products of a linear layer against double-precision products of what the quantisers stored.
#include "nibble/recipe/linear.h"

#include <gtest/gtest.h>

#include "nibble/quant/dge.h"
#include "tests/recipe/linear_testing.h"

namespace nibble {
namespace {

using testing::dense;
using testing::error;
using testing::Layer;
using testing::Matrix;
using testing::rounded_to_bf16;
using testing::Shape;
using testing::stored;
using testing::values;

Recipe recipe_named(const std::string& name) {
  return load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/" + name + ".toml");
}

constexpr Shape kShape;
constexpr std::int64_t kTokens = kShape.tokens;
constexpr std::int64_t kIn = kShape.in;
constexpr std::int64_t kOut = kShape.out;

TEST(Linear, Bf16RunsAllThreeProductsOnRoundedValues) {
  Layer l(recipe_named("bf16"));
  l.run();
  const Matrix w = rounded_to_bf16(l.w);
  EXPECT_LT(error(l.y, l.fprop(values(l.x), w)), 1e-6);
  EXPECT_LT(error(l.dx, l.dgrad(values(l.dy), w)), 1e-6);
  EXPECT_LT(error(l.dw, l.wgrad(values(l.dy), values(l.x))), 1e-6);
}

TEST(Linear, F32IdentityRecipeGivesTheExactGradients) {
  Layer l(unquantised_recipe(ElementFormat::F32));
  l.run();
  EXPECT_LT(error(l.y, l.fprop(values(l.x), values(l.w))), 1e-6);
  EXPECT_LT(error(l.dx, l.dgrad(values(l.dy), values(l.w))), 1e-6);
  EXPECT_LT(error(l.dw, l.wgrad(values(l.dy), values(l.x))), 1e-6);
}

// Folding moves a scale from one operand to the other before dY is rounded; what is multiplied must still be
// dY times the quantised partner.
void check_backward_of_codes(Layer& l, const Matrix& dge, const Matrix& residual) {
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  Matrix w_codes = stored(w);
  for (std::size_t i = 0; i < w_codes.size(); ++i) {
    w_codes[i] /= static_cast<double>(w.scale_at(static_cast<std::int64_t>(i) / kIn, 0));
  }
  Matrix x_codes = stored(x);
  for (std::size_t i = 0; i < x_codes.size(); ++i) {
    x_codes[i] /= static_cast<double>(x.scale_at(static_cast<std::int64_t>(i) / kIn, 0));
  }
  const QTensor dgrad_dy = l.quantised(Operand::DgradDy, l.dy, {}, w.scales.reshape({kOut}));
  EXPECT_LT(error(l.dx, l.dgrad(stored(dgrad_dy), w_codes)), 2e-6);
  const QTensor wgrad_dy = l.quantised(Operand::WgradDy, l.dy, x.scales.reshape({kTokens}));
  Matrix dw = l.wgrad(stored(wgrad_dy), x_codes);
  const Matrix from_residual = l.wgrad(values(l.dy), residual);
  for (std::size_t i = 0; i < dw.size(); ++i) dw[i] = dw[i] * dge[i] + from_residual[i];
  EXPECT_LT(error(l.dw, dw), 5e-6);
  // And FP8 is close to the unrounded gradient of the quantised forward.
  EXPECT_LT(error(l.dx, l.dgrad(values(l.dy), stored(w))), 0.05);
}

TEST(Linear, DirectFp4MultipliesCodesInAllThreeProducts) {
  Layer l(recipe_named("fp4-direct"));
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  EXPECT_LT(error(l.y, l.fprop(stored(x), stored(w))), 1e-6);
  EXPECT_EQ(l.linear.paths()[0], GemmPath::Int8);
  check_backward_of_codes(l, Matrix(kOut * kIn, 1.0), Matrix(kTokens * kIn, 0.0));
}

/// The factors of DGE with k = 5 and clip 3.
Matrix dge_of(const Layer& l, const QTensor& w) {
  Matrix dge;
  for (std::int64_t o = 0; o < kOut; ++o) {
    for (std::int64_t i = 0; i < kIn; ++i) {
      const float scaled = l.w.view().data<float>()[o * kIn + i] * (1.0f / w.scale_at(o, 0));
      dge.push_back(static_cast<double>(dge_derivative(std::clamp(scaled, -6.0f, 6.0f), 5, 3)));
    }
  }
  return dge;
}

TEST(Linear, Wang2025AddsTheSparseResidualAndAppliesDge) {
  Layer l(recipe_named("wang2025"));
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  const Matrix residual = dense(x.residual);
  ASSERT_GT(x.residual.nnz(), kTokens);
  Matrix y = l.fprop(stored(x), stored(w));
  const Matrix extra = l.fprop(residual, rounded_to_bf16(l.w));
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += extra[i];
  EXPECT_LT(error(l.y, y), 2e-6);
  check_backward_of_codes(l, dge_of(l, w), residual);
}

TEST(Linear, AFusedResidualIsInOneProductAndInWgrad) {
  Layer l(recipe_named("ablations/wang2025-fused"));
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  EXPECT_EQ(x.element, ElementFormat::E4M3);
  EXPECT_FALSE(x.residual.defined());
  EXPECT_LT(error(l.y, l.fprop(stored(x), stored(w))), 1e-6);
  EXPECT_NE(l.linear.paths()[0], GemmPath::Int8);
  check_backward_of_codes(l, dge_of(l, w), Matrix(kTokens * kIn, 0.0));
}

TEST(Linear, OutlierCompensationBringsTheProductCloserToBf16) {
  Layer direct(recipe_named("fp4-direct"));
  direct.run();
  Layer wang(recipe_named("wang2025"));
  wang.run();
  Layer fused(recipe_named("ablations/wang2025-fused"));
  fused.run();
  Layer bf16(recipe_named("bf16"));
  bf16.run();
  const Matrix truth = values(bf16.y);
  EXPECT_LT(error(wang.y, truth), 0.6 * error(direct.y, truth));
  EXPECT_LT(error(fused.y, truth), 0.7 * error(direct.y, truth)) << "outliers of four significant bits";
}

TEST(Linear, ReleasedWang2025MultipliesPerTensorFp8Carriers) {
  Layer l(recipe_named("wang2025-released"));
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  EXPECT_EQ(x.element, ElementFormat::E4M3);
  EXPECT_LT(error(l.y, l.fprop(stored(x), stored(w))), 1e-6);
  const QTensor dy = l.quantised(Operand::DgradDy, l.dy);
  EXPECT_LT(error(l.dx, l.dgrad(stored(dy), stored(w))), 1e-6);
}

TEST(Linear, LaterMicroBatchesAddToTheWeightGradient) {
  for (const char* name : {"bf16", "fp4-direct", "wang2025", "wang2025-released"}) {
    Layer l(recipe_named(name));
    l.run();
    Matrix once = values(l.dw);
    l.pass.overwrite_gradients = false;
    l.linear.backward(l.dy, l.saved, l.dx, l.dw, l.pass);
    for (double& v : once) v *= 2;
    EXPECT_LT(error(l.dw, once), 1e-6) << name;
  }
}

TEST(Linear, StochasticCodesDependOnThePositionInTheGlobalBatch) {
  Recipe r = load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/tests/recipe/stochastic.toml");
  Layer l(r);
  l.run();
  const std::int64_t half = 16;
  PassContext second = l.pass;
  second.first_token = half;
  OwnedTensor y(DType::F32, {kTokens - half, kOut});
  l.linear.forward(l.x.view().row_range(half, kTokens), y, {}, second);
  const Matrix whole = values(l.y.view().row_range(half, kTokens));
  EXPECT_LT(error(y, whole), 1e-6);
  PassContext other_step = l.pass;
  other_step.step = 4;
  l.linear.forward(l.x, l.y, {}, other_step);
  EXPECT_GT(error(y, values(l.y.view().row_range(half, kTokens))), 1e-3);
}

}  // namespace
}  // namespace nibble
