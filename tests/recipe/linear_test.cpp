// The three products of a linear layer against double-precision products of what the quantisers stored.
#include "nibble/recipe/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "nibble/quant/dge.h"

namespace nibble {
namespace {

constexpr std::int64_t kTokens = 37;
constexpr std::int64_t kIn = 130;  // more than one outlier a row at alpha = 0.99
constexpr std::int64_t kOut = 53;

Recipe recipe_named(const std::string& name) {
  return load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/" + name + ".toml");
}

using Matrix = std::vector<double>;

Matrix values(const Tensor& t) {
  Matrix m(static_cast<std::size_t>(t.numel()));
  for (std::size_t i = 0; i < m.size(); ++i) {
    m[i] = t.dtype() == DType::F32 ? static_cast<double>(t.data<float>()[i])
                                   : static_cast<double>(bf16_decode(t.data<bf16>()[i]));
  }
  return m;
}

Matrix stored(const QTensor& q) {
  Matrix m;
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) m.push_back(static_cast<double>(q.value_at(r, c)));
  }
  return m;
}

struct Layer {
  Arena arena, weights;
  OwnedTensor x{DType::BF16, {kTokens, kIn}}, w{DType::F32, {kOut, kIn}}, dy{DType::BF16, {kTokens, kOut}};
  OwnedTensor y{DType::F32, {kTokens, kOut}}, dx{DType::F32, {kTokens, kIn}}, dw{DType::F32, {kOut, kIn}};
  Recipe recipe;
  Linear linear;
  PassContext pass{arena, 7, 3, 0, true, false};
  Linear::Saved saved;

  explicit Layer(Recipe r) : recipe(std::move(r)), linear("test", 0, recipe) {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < kTokens * kIn; ++i) {
      x.view().data<bf16>()[i] = bf16_encode(normal(rng) * (i % 131 == 0 ? 20.0f : 1.0f));
    }
    for (std::int64_t i = 0; i < kOut * kIn; ++i) w.view().data<float>()[i] = 0.05f * normal(rng);
    for (std::int64_t i = 0; i < kTokens * kOut; ++i) dy.view().data<bf16>()[i] = bf16_encode(1e-3f * normal(rng));
    linear.prepare(w, pass.seed, pass.step, weights, false);
    saved = linear.forward(x, y, Accumulate::Overwrite, pass);
    linear.backward(dy, saved, dx, dw, pass);
  }
  QTensor quantised(Operand o, const Tensor& t, Tensor row_fold = {}, Tensor col_fold = {}) {
    QuantizeContext context;
    context.row_fold = row_fold;
    context.col_fold = col_fold;
    return quantize(t, recipe[o].quant, context, arena);
  }
};

/// Largest |a - b| over the largest |b|.
double error(const Tensor& a, const Matrix& b) {
  const Matrix m = values(a);
  double worst = 0;
  double scale = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, std::abs(m[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return worst / scale;
}

/// sum_k a[m, k] b[n, k] with strides: element (m, k) of a is a[m * am + k * ak].
Matrix product(const Matrix& a, std::int64_t am, std::int64_t ak, const Matrix& b, std::int64_t bn, std::int64_t bk,
               std::int64_t m, std::int64_t n, std::int64_t k) {
  Matrix c(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        sum += a[static_cast<std::size_t>(i * am + l * ak)] * b[static_cast<std::size_t>(j * bn + l * bk)];
      }
      c[static_cast<std::size_t>(i * n + j)] = sum;
    }
  }
  return c;
}
Matrix fprop(const Matrix& x, const Matrix& w) { return product(x, kIn, 1, w, kIn, 1, kTokens, kOut, kIn); }
Matrix dgrad(const Matrix& dy, const Matrix& w) { return product(dy, kOut, 1, w, 1, kIn, kTokens, kIn, kOut); }
Matrix wgrad(const Matrix& dy, const Matrix& x) { return product(dy, 1, kOut, x, 1, kIn, kOut, kIn, kTokens); }

Matrix rounded_to_bf16(const Tensor& t) {
  Matrix m = values(t);
  for (double& v : m) v = static_cast<double>(bf16_round(static_cast<float>(v)));
  return m;
}

Matrix dense(const CsrMatrix& csr) {
  Matrix m(static_cast<std::size_t>(csr.rows * csr.cols));
  for (std::int64_t r = 0; r < csr.rows; ++r) {
    for (std::int32_t e = csr.row_begin.data<std::int32_t>()[r]; e < csr.row_begin.data<std::int32_t>()[r + 1]; ++e) {
      m[static_cast<std::size_t>(r * csr.cols + csr.col.data<std::int32_t>()[e])] =
          static_cast<double>(csr.value.data<float>()[e]);
    }
  }
  return m;
}

TEST(Linear, Bf16RunsAllThreeProductsOnRoundedValues) {
  Layer l(recipe_named("bf16"));
  const Matrix w = rounded_to_bf16(l.w);
  EXPECT_LT(error(l.y, fprop(values(l.x), w)), 1e-6);
  EXPECT_LT(error(l.dx, dgrad(values(l.dy), w)), 1e-6);
  EXPECT_LT(error(l.dw, wgrad(values(l.dy), values(l.x))), 1e-6);
}

TEST(Linear, F32IdentityRecipeGivesTheExactGradients) {
  Layer l(unquantised_recipe(ElementFormat::F32));
  EXPECT_LT(error(l.y, fprop(values(l.x), values(l.w))), 1e-6);
  EXPECT_LT(error(l.dx, dgrad(values(l.dy), values(l.w))), 1e-6);
  EXPECT_LT(error(l.dw, wgrad(values(l.dy), values(l.x))), 1e-6);
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
  EXPECT_LT(error(l.dx, dgrad(stored(dgrad_dy), w_codes)), 2e-6);
  const QTensor wgrad_dy = l.quantised(Operand::WgradDy, l.dy, x.scales.reshape({kTokens}));
  Matrix dw = wgrad(stored(wgrad_dy), x_codes);
  const Matrix from_residual = wgrad(values(l.dy), residual);
  for (std::size_t i = 0; i < dw.size(); ++i) dw[i] = dw[i] * dge[i] + from_residual[i];
  EXPECT_LT(error(l.dw, dw), 5e-6);
  // And FP8 is close to the unrounded gradient of the quantised forward.
  EXPECT_LT(error(l.dx, dgrad(values(l.dy), stored(w))), 0.05);
}

TEST(Linear, DirectFp4MultipliesCodesInAllThreeProducts) {
  Layer l(recipe_named("fp4-direct"));
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  EXPECT_LT(error(l.y, fprop(stored(x), stored(w))), 1e-6);
  EXPECT_EQ(l.linear.paths()[0], GemmPath::Int8);
  check_backward_of_codes(l, Matrix(kOut * kIn, 1.0), Matrix(kTokens * kIn, 0.0));
}

TEST(Linear, Wang2025AddsTheSparseResidualAndAppliesDge) {
  Layer l(recipe_named("wang2025"));
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  const Matrix residual = dense(x.residual);
  ASSERT_GT(x.residual.nnz(), kTokens);
  Matrix y = fprop(stored(x), stored(w));
  const Matrix extra = fprop(residual, rounded_to_bf16(l.w));
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += extra[i];
  EXPECT_LT(error(l.y, y), 2e-6);
  Matrix dge;
  for (std::int64_t o = 0; o < kOut; ++o) {
    for (std::int64_t i = 0; i < kIn; ++i) {
      const float scaled = l.w.view().data<float>()[o * kIn + i] * (1.0f / w.scale_at(o, 0));
      dge.push_back(static_cast<double>(dge_derivative(std::clamp(scaled, -6.0f, 6.0f), 5, 3)));
    }
  }
  check_backward_of_codes(l, dge, residual);
}

TEST(Linear, OutlierCompensationBringsTheProductCloserToBf16) {
  Layer direct(recipe_named("fp4-direct"));
  Layer wang(recipe_named("wang2025"));
  Layer bf16(recipe_named("bf16"));
  const Matrix truth = values(bf16.y);
  EXPECT_LT(error(wang.y, truth), 0.6 * error(direct.y, truth));
}

TEST(Linear, ReleasedWang2025MultipliesPerTensorFp8Carriers) {
  Layer l(recipe_named("wang2025-released"));
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  EXPECT_EQ(x.element, ElementFormat::E4M3);
  EXPECT_LT(error(l.y, fprop(stored(x), stored(w))), 1e-6);
  const QTensor dy = l.quantised(Operand::DgradDy, l.dy);
  EXPECT_LT(error(l.dx, dgrad(stored(dy), stored(w))), 1e-6);
}

TEST(Linear, LaterMicroBatchesAddToTheWeightGradient) {
  for (const char* name : {"bf16", "fp4-direct", "wang2025", "wang2025-released"}) {
    Layer l(recipe_named(name));
    Matrix once = values(l.dw);
    l.pass.first_micro_batch = false;
    l.linear.backward(l.dy, l.saved, l.dx, l.dw, l.pass);
    for (double& v : once) v *= 2;
    EXPECT_LT(error(l.dw, once), 1e-6) << name;
  }
}

TEST(Linear, StochasticCodesDependOnThePositionInTheGlobalBatch) {
  Recipe r = load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/tests/recipe/stochastic.toml");
  Layer l(r);
  const std::int64_t half = 16;
  PassContext second{l.arena, 7, 3, half, true, false};
  OwnedTensor y(DType::F32, {kTokens - half, kOut});
  l.linear.forward(l.x.view().row_range(half, kTokens), y, Accumulate::Overwrite, second);
  const Matrix whole = values(l.y.view().row_range(half, kTokens));
  EXPECT_LT(error(y, whole), 1e-6);
  PassContext other_step{l.arena, 7, 4, 0, true, false};
  l.linear.forward(l.x, l.y, Accumulate::Overwrite, other_step);
  EXPECT_GT(error(y, values(l.y.view().row_range(half, kTokens))), 1e-3);
}

}  // namespace
}  // namespace nibble
