#include "nibble/recipe/product_quality.h"

#include <gtest/gtest.h>

#include <limits>

#include "nibble/recipe/trust_mask.h"
#include "tests/recipe/linear_testing.h"

namespace nibble {
namespace {

using testing::Layer;
using testing::Matrix;
using testing::nvfp4;
using testing::recipe_of;
using testing::Shape;
using testing::values;

OwnedTensor random_matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  OwnedTensor f(DType::F32, {rows, cols});
  for (std::int64_t i = 0; i < rows * cols; ++i) f.view().data<float>()[i] = normal(rng);
  OwnedTensor t(dtype, {rows, cols});
  convert(f, t);
  return t;
}

/// The same in the plainest way.
ProductQuality naive(const Matrix& p, const Matrix& q) {
  ProductQuality sum;
  for (std::size_t i = 0; i < p.size(); ++i) {
    sum.exact += p[i] * p[i];
    sum.computed += q[i] * q[i];
    sum.dot += p[i] * q[i];
    sum.noise += (q[i] - p[i]) * (q[i] - p[i]);
    ++sum.count;
  }
  return sum;
}

void expect_same(const ProductQuality& a, const ProductQuality& b, double tolerance) {
  EXPECT_NEAR(a.exact, b.exact, tolerance * b.exact);
  EXPECT_NEAR(a.computed, b.computed, tolerance * b.computed);
  EXPECT_NEAR(a.dot, b.dot, tolerance * b.exact);
  EXPECT_NEAR(a.noise, b.noise, tolerance * b.exact);
  EXPECT_EQ(a.count, b.count);
}

TEST(ProductQuality, ComparisonEqualsThePlainSums) {
  for (const std::int64_t cols : {1, 7, 8, 33, 20000}) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const OwnedTensor p = random_matrix(DType::F32, 3, cols, 1);
      const OwnedTensor q = random_matrix(dtype, 3, cols, 2);
      const OwnedTensor before = random_matrix(DType::F32, 3, cols, 3);
      expect_same(compare_products(p, q, Tensor()), naive(values(p), values(q)), 1e-12);
      Matrix part = values(q);
      const Matrix there = values(before);
      for (std::size_t i = 0; i < part.size(); ++i) part[i] -= there[i];
      expect_same(compare_products(p, q, before), naive(values(p), part), 1e-6);
    }
  }
}

TEST(ProductQuality, FiguresOfKnownProducts) {
  const ProductQuality half{4, 1, 2, 1, 1};  // p = 2, q = 1
  EXPECT_EQ(half.cosine(), 1);
  EXPECT_EQ(half.magnitude(), 0.5);
  EXPECT_EQ(half.rho(), 2);
  const ProductQuality equal{4, 4, 4, 0, 1};
  EXPECT_EQ(equal.rho(), std::numeric_limits<double>::infinity());
  const ProductQuality nothing;
  EXPECT_EQ(nothing.cosine(), 1);
  EXPECT_EQ(nothing.magnitude(), 1);
  // "FP4 All the Way", section 4: with a noise of |dW| / sqrt(3 d) a coordinate the monitor reads sqrt(3).
  const double d = 1000;
  const ProductQuality critical{7, 7, 7, d * 7 / (3 * d), 1000};
  EXPECT_NEAR(critical.rho(), std::sqrt(3.0), 1e-12);
  ProductQuality merged = half;
  merged.merge(equal);
  EXPECT_EQ(merged.exact, 8);
  EXPECT_EQ(merged.noise, 1);
  EXPECT_EQ(merged.count, 2);
}

TEST(TrustMask, ClearsExactlyTheElementsWhoseBitIsZero) {
  std::mt19937 rng(4);
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t cols : {1, 8, 13, 70}) {
      const OwnedTensor g = random_matrix(dtype, 5, cols, 5);
      OwnedTensor mask(DType::U8, {5, (cols + 7) / 8});
      for (std::int64_t i = 0; i < mask.view().numel(); ++i) {
        mask.view().data<std::uint8_t>()[i] = static_cast<std::uint8_t>(rng());
      }
      Matrix expected = values(g);
      for (std::int64_t r = 0; r < 5; ++r) {
        for (std::int64_t c = 0; c < cols; ++c) {
          if ((mask.view().data<std::uint8_t>()[r * ((cols + 7) / 8) + c / 8] >> (c % 8) & 1) == 0) {
            expected[static_cast<std::size_t>(r * cols + c)] = 0;
          }
        }
      }
      apply_trust_mask(g, mask);
      EXPECT_EQ(values(g), expected);
    }
  }
}

constexpr Shape kShape{200, 64, 80};

LinearRecipe fp4() {
  LinearRecipe r;
  r[Operand::FpropX].quant = r[Operand::FpropW].quant = r[Operand::DgradDy].quant = nvfp4();
  for (const Operand o : {Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
    r[o].quant = nvfp4(Rounding::NearestEven, true);
  }
  return r;
}

Matrix first_rows(const Tensor& t, std::int64_t rows) { return values(t.row_range(0, rows)); }
Matrix first_rows(const Matrix& m, std::int64_t rows, std::int64_t cols) {
  return {m.begin(), m.begin() + static_cast<std::ptrdiff_t>(rows * cols)};
}

TEST(LinearProducts, AreThoseOfASampleAgainstTheUnquantisedProduct) {
  Layer l(recipe_of(fp4()), kShape);
  l.pass.measure_quality = true;
  l.run();
  const LinearProducts& p = l.linear.products();
  const Matrix y = first_rows(l.fprop(values(l.x), values(l.w)), 25, kShape.out);
  const Matrix dx = first_rows(l.dgrad(values(l.dy), values(l.w)), 25, kShape.in);
  const Matrix dw = first_rows(l.wgrad(values(l.dy), values(l.x)), 10, kShape.in);
  expect_same(p[0], naive(y, first_rows(l.y, 25)), 1e-5);
  expect_same(p[1], naive(dx, first_rows(l.dx, 25)), 1e-5);
  expect_same(p[2], naive(dw, first_rows(l.dw, 10)), 1e-5);
  for (const ProductQuality& q : p) {
    EXPECT_GT(q.cosine(), 0.98);
    EXPECT_GT(q.rho(), 5);
    EXPECT_LT(q.rho(), 15);  // NVFP4: some 20 dB an operand, two operands
  }
  l.linear.reset_quality();
  EXPECT_EQ(l.linear.products()[0].count, 0);
}

TEST(LinearProducts, AProductThatIsAddedIsMeasuredWithoutWhatWasThere) {
  Layer alone(recipe_of(fp4()), kShape);
  alone.pass.measure_quality = true;
  alone.run();
  Layer added(recipe_of(fp4()), kShape);
  added.pass.measure_quality = true;
  added.prepare();
  for (std::int64_t i = 0; i < added.y.view().numel(); ++i) added.y.view().data<float>()[i] = 0.25f;
  added.linear.forward(added.x, added.y, added.y, added.pass);
  expect_same(added.linear.products()[0], alone.linear.products()[0], 1e-5);
}

TEST(LinearProducts, SumsOfMicroBatchesAndUnquantisedLayersAreNotMeasured) {
  Layer later(recipe_of(fp4()), kShape);
  later.pass.measure_quality = true;
  later.pass.overwrite_gradients = false;
  later.run();
  Layer bf16(unquantised_recipe(ElementFormat::BF16), kShape);
  bf16.pass.measure_quality = true;
  bf16.run();
  LinearRecipe tail = fp4();  // QAF: the forward in FP4, the backward in BF16
  for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) tail[o] = {};
  Layer qaf(recipe_of(tail), kShape);
  qaf.pass.measure_quality = true;
  qaf.run();
  for (std::size_t p = 0; p < 3; ++p) {
    EXPECT_EQ(later.linear.products()[p].count, 0);
    EXPECT_EQ(bf16.linear.products()[p].count, 0);
    EXPECT_EQ(qaf.linear.products()[p].count > 0, p == 0);
  }
}

TEST(LinearProducts, MeasuringChangesNoBit) {
  LinearRecipe r = fp4();
  r[Operand::FpropX].quant = testing::rotated(nvfp4(), 16, Hadamard::Signs::Plus);
  r[Operand::FpropW].quant = r[Operand::FpropX].quant;
  r[Operand::DgradW].source = r[Operand::WgradX].source = OperandSource::Requantise;
  Layer plain(recipe_of(r), Shape{48, 64, 80});
  Layer measured(recipe_of(r), Shape{48, 64, 80});
  measured.pass.measure_quality = true;
  plain.run();
  measured.run();
  EXPECT_EQ(values(plain.y), values(measured.y));
  EXPECT_EQ(values(plain.dx), values(measured.dx));
  EXPECT_EQ(values(plain.dw), values(measured.dw));
  for (const QuantQuality& q : measured.linear.quality()) EXPECT_GT(q.snr_db(), 10);
}

TEST(Oscillation, IsTheWayOfTheQuantisedWeightOverThatOfTheWeight) {
  QuantSpec row;
  row.element = ElementFormat::E2M1;
  row.scale = ScaleRule::Absmax;
  LinearRecipe r;
  r[Operand::FpropW].quant = row;
  Layer l(recipe_of(r), Shape{8, 4, 8});  // one row is measured
  const float w[] = {6, 1.24f, 2, 0.1f};
  std::copy_n(w, 4, l.w.view().data<float>());
  l.pass.measure_quality = true;
  l.run();
  EXPECT_FALSE(l.linear.oscillation().has_value());
  l.w.view().data<float>()[1] = 1.26f;  // over the threshold: Q(w) moves by .5
  l.w.view().data<float>()[3] = 0.14f;  // Q(w) stays
  l.w.view().data<float>()[4] += 1;     // in the second row
  l.linear.after_update(l.w, 3, 10, l.scratch);
  ASSERT_TRUE(l.linear.oscillation().has_value());
  EXPECT_NEAR(l.linear.oscillation()->quantised, 0.5, 1e-6);
  EXPECT_NEAR(l.linear.oscillation()->weight, 0.06, 1e-6);
  EXPECT_NEAR(l.linear.oscillation()->ratio(), 0.5 / 0.06, 1e-4);
  l.pass.measure_quality = false;
  l.run();
  l.linear.reset_quality();
  l.linear.after_update(l.w, 4, 10, l.scratch);
  EXPECT_NEAR(l.linear.oscillation()->quantised, 0.5, 1e-6);  // until another step is measured
}

TEST(OperandObserver, SeesXAndWBeforeFpropAndDyBeforeTheBackward) {
  Layer l(recipe_of(fp4()), Shape{48, 64, 80});
  std::vector<std::pair<Operand, const void*>> seen;
  const OperandObserver observer = [&](const Linear& linear, Operand operand, const Tensor& source) {
    EXPECT_EQ(&linear, &l.linear);
    seen.emplace_back(operand, source.raw());
  };
  l.pass.observer = &observer;
  l.run();
  const std::vector<std::pair<Operand, const void*>> expected = {
      {Operand::FpropX, l.x.view().raw()}, {Operand::FpropW, l.w.view().raw()}, {Operand::DgradDy, l.dy.view().raw()}};
  EXPECT_EQ(seen, expected);
}

}  // namespace
}  // namespace nibble
