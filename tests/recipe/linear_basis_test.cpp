// Rotated operands: what must cancel, what must be undone, and what acts before it is undone.
#include <gtest/gtest.h>

#include "nibble/quant/dge.h"
#include "tests/recipe/linear_testing.h"

namespace nibble {
namespace {

using testing::error;
using testing::Layer;
using testing::Matrix;
using testing::recipe_of;
using testing::rotated;
using testing::Shape;
using testing::stored;
using testing::unquantised;
using testing::values;
using Signs = Hadamard::Signs;

constexpr Shape kShape{64, 96, 32};

/// Rows times H / sqrt(group), group by group; its own inverse.
Matrix hadamard(const Matrix& m, std::int64_t cols, std::int64_t group) {
  Matrix out(m.size());
  const auto g = static_cast<std::size_t>(group);
  for (std::size_t begin = 0; begin < m.size(); begin += g) {
    for (std::size_t j = 0; j < g; ++j) {
      for (std::size_t i = 0; i < g; ++i) {
        out[begin + j] += (std::popcount(i & j) % 2 != 0 ? -1 : 1) * m[begin + i] / std::sqrt(static_cast<double>(g));
      }
    }
  }
  EXPECT_EQ(cols % group, 0);
  return out;
}

LinearRecipe f32_everywhere() {
  LinearRecipe r;
  for (const Operand o : kAllOperands) r[o].quant = unquantised(ElementFormat::F32);
  return r;
}

TEST(LinearBasis, RotationsCancelWhereNothingIsRounded) {
  for (const OperandSource source : {OperandSource::HighPrecision, OperandSource::Fprop, OperandSource::Requantise}) {
    for (const Signs forward : {Signs::Plus, Signs::Step}) {
      for (const Signs backward : {Signs::Plus, Signs::Step, Signs::Call}) {
        SCOPED_TRACE(::testing::Message() << "source " << static_cast<int>(source) << ", signs "
                                          << static_cast<int>(forward) << ", " << static_cast<int>(backward));
        LinearRecipe r = f32_everywhere();
        for (const Operand o : {Operand::FpropX, Operand::FpropW}) r[o].quant = rotated(r[o].quant, 32, forward);
        r[Operand::DgradW].source = r[Operand::WgradX].source = source;
        if (source != OperandSource::Fprop) {
          r[Operand::DgradDy].quant = rotated(r[Operand::DgradDy].quant, 16, backward);
          r[Operand::DgradW].quant = rotated(unquantised(ElementFormat::F32, true), 16, backward);
          for (const Operand o : {Operand::WgradDy, Operand::WgradX}) {
            r[o].quant = rotated(unquantised(ElementFormat::F32, true), 64, backward);
          }
        }
        Layer l(recipe_of(r), kShape, DType::F32);
        l.run();
        EXPECT_LT(error(l.y, l.fprop(values(l.x), values(l.w))), 2e-6);
        EXPECT_LT(error(l.dx, l.dgrad(values(l.dy), values(l.w))), 2e-6);
        EXPECT_LT(error(l.dw, l.wgrad(values(l.dy), values(l.x))), 2e-6);
      }
    }
  }
}

TEST(LinearBasis, WeightGradientsWithAndWithoutRhtAgreeToBf16Rounding) {
  LinearRecipe r;
  Layer plain(recipe_of(r), kShape);
  for (const Operand o : {Operand::WgradDy, Operand::WgradX}) {
    r[o].quant = rotated(unquantised(ElementFormat::BF16, true), 16, Signs::Vector);
  }
  Layer with(recipe_of(r), kShape);
  EXPECT_LT(error(with.run().dw, values(plain.run().dw)), 0x1p-7);
}

/// Quartet's forward: QuEST in a fixed Hadamard basis, with trust masks.
LinearRecipe quest() {
  LinearRecipe r = f32_everywhere();
  for (const Operand o : {Operand::FpropX, Operand::FpropW}) {
    r[o].quant = rotated(testing::mxfp4(ScaleRule::QuestFloor), 32, Signs::Plus);
    r[o].quant.trust_mask = true;
  }
  return r;
}

Matrix mask_of(const QTensor& q) {
  Matrix m;
  std::int64_t cut = 0;
  for (std::int64_t row = 0; row < q.rows; ++row) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      m.push_back(q.mask.data<std::uint8_t>()[row * ((q.cols + 7) / 8) + c / 8] >> (c % 8) & 1);
      cut += m.back() == 0;
    }
  }
  EXPECT_GT(cut, q.cols / 4);  // or the test shows nothing
  return m;
}

void times(Matrix& a, const Matrix& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] *= b[i];
}

TEST(LinearBasis, TrustMasksActInTheRotatedBasisOnGradientsOfSavedOperands) {
  LinearRecipe r = quest();
  r[Operand::DgradW].source = r[Operand::WgradX].source = OperandSource::Fprop;
  Layer l(recipe_of(r), kShape, DType::F32);
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  Matrix dx = l.dgrad(values(l.dy), stored(w));
  times(dx, mask_of(x));
  EXPECT_LT(error(l.dx, hadamard(dx, kShape.in, 32)), 2e-6);
  Matrix dw = l.wgrad(values(l.dy), stored(x));
  times(dw, mask_of(w));
  EXPECT_LT(error(l.dw, hadamard(dw, kShape.in, 32)), 2e-6);
  EXPECT_LT(error(l.y, l.fprop(stored(x), stored(w))), 2e-6);
}

TEST(LinearBasis, TrustMasksActInTheRotatedBasisOnGradientsOfHighPrecisionOperands) {
  Layer l(recipe_of(quest()), kShape, DType::F32);
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  const QTensor w = l.quantised(Operand::FpropW, l.w);
  Matrix dx = hadamard(l.dgrad(values(l.dy), values(l.w)), kShape.in, 32);
  times(dx, mask_of(x));
  EXPECT_LT(error(l.dx, hadamard(dx, kShape.in, 32)), 2e-6);
  Matrix dw = hadamard(l.wgrad(values(l.dy), values(l.x)), kShape.in, 32);
  times(dw, mask_of(w));
  EXPECT_LT(error(l.dw, hadamard(dw, kShape.in, 32)), 2e-6);
}

TEST(LinearBasis, DgeActsOnTheRotatedScaledWeight) {
  for (const OperandSource source : {OperandSource::HighPrecision, OperandSource::Fprop}) {
    LinearRecipe r = f32_everywhere();
    for (const Operand o : {Operand::FpropX, Operand::FpropW}) {
      r[o].quant.element = ElementFormat::E2M1;
      r[o].quant.scale = ScaleRule::Absmax;
      r[o].quant = rotated(r[o].quant, 16, Signs::Plus);
    }
    r[Operand::DgradW].source = r[Operand::WgradX].source = source;
    r.weight_gradient.estimator = WeightGradient::Estimator::Dge;
    Layer l(recipe_of(r), kShape, DType::F32);
    l.run();
    const QTensor x = l.quantised(Operand::FpropX, l.x);
    const QTensor w = l.quantised(Operand::FpropW, l.w);
    const Matrix rotated_w = hadamard(values(l.w), kShape.in, 16);
    Matrix dw = source == OperandSource::Fprop ? l.wgrad(values(l.dy), stored(x))
                                               : hadamard(l.wgrad(values(l.dy), values(l.x)), kShape.in, 16);
    double near_threshold = 0;
    for (std::size_t i = 0; i < dw.size(); ++i) {
      const double scale = static_cast<double>(w.scale_at(static_cast<std::int64_t>(i) / kShape.in, 0));
      const auto scaled = static_cast<float>(std::clamp(rotated_w[i] / scale, -6.0, 6.0));
      dw[i] *= static_cast<double>(dge_derivative(scaled, 5, 3));
      near_threshold += dge_derivative(scaled, 5, 3) == 3;
    }
    EXPECT_GT(near_threshold, 0);
    EXPECT_LT(testing::distance(values(l.dw), hadamard(dw, kShape.in, 16)), 1e-4);
  }
}

TEST(LinearBasis, EvaluationAgreesWithTheWeightOfAnyStep) {
  LinearRecipe r = f32_everywhere();
  for (const Operand o : {Operand::FpropX, Operand::FpropW}) r[o].quant = rotated(r[o].quant, 32, Signs::Step);
  Layer l(recipe_of(r), kShape, DType::F32);
  l.prepare();
  l.pass.step = 0;  // as a pass without a backward has it
  l.forward();
  EXPECT_LT(error(l.y, l.fprop(values(l.x), values(l.w))), 2e-6);
}

TEST(LinearBasis, LaterMicroBatchesAddWhatMaskAndRotationLeave) {
  for (const OperandSource source : {OperandSource::HighPrecision, OperandSource::Fprop}) {
    LinearRecipe r = quest();
    r[Operand::DgradW].source = r[Operand::WgradX].source = source;
    Layer l(recipe_of(r), kShape);
    l.run();
    Matrix twice = values(l.dw);
    for (double& v : twice) v *= 2;
    l.pass.overwrite_gradients = false;
    l.backward();
    EXPECT_LT(error(l.dw, twice), 1e-6);
  }
}

TEST(LinearBasis, OperandsInDifferentBasesAreRefused) {
  const auto refuses = [](const LinearRecipe& r, const char* why) {
    const Recipe recipe = recipe_of(r);
    try {
      const Linear linear("layers.0.mlp.down", 0, recipe, 0, 1);
      return false;
    } catch (const InternalError& e) {
      return std::string(e.what()).find(why) != std::string::npos;
    }
  };
  LinearRecipe one_side;
  one_side[Operand::FpropX].quant = rotated(unquantised(ElementFormat::BF16), 16, Signs::Plus);
  EXPECT_TRUE(refuses(one_side, "fprop.x and fprop.w must share one transform"));
  LinearRecipe along_k;
  for (const Operand o : {Operand::DgradDy, Operand::DgradW}) {
    along_k[o].quant = rotated(unquantised(ElementFormat::BF16), 16, Signs::Plus);
  }
  EXPECT_TRUE(refuses(along_k, "must be transposed"));
  LinearRecipe reused;
  reused[Operand::WgradX].source = OperandSource::Fprop;
  reused[Operand::WgradDy].quant = rotated(unquantised(ElementFormat::BF16, true), 16, Signs::Plus);
  EXPECT_TRUE(refuses(reused, "wgrad.dy and wgrad.x must share one transform"));
  LinearRecipe calls;
  for (const Operand o : {Operand::FpropX, Operand::FpropW}) {
    calls[o].quant = rotated(unquantised(ElementFormat::BF16), 16, Signs::Call);
  }
  EXPECT_TRUE(refuses(calls, "once a step"));
  LinearRecipe sparse = quest();
  sparse[Operand::FpropX].quant.clamp = {0.99, true, ResidualMode::Sparse};
  EXPECT_TRUE(refuses(sparse, "sparse residual"));
}

}  // namespace
}  // namespace nibble
