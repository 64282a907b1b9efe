// Where backward operands come from, how their randomness is keyed, and what it averages to.
#include <gtest/gtest.h>

#include "tests/recipe/linear_testing.h"

namespace nibble {
namespace {

using testing::distance;
using testing::error;
using testing::Layer;
using testing::Matrix;
using testing::mxfp4;
using testing::nvfp4;
using testing::recipe_of;
using testing::rotated;
using testing::Shape;
using testing::stored;
using testing::transposed;
using testing::values;
using Signs = Hadamard::Signs;

constexpr Shape kShape{64, 96, 64};

LinearRecipe bf16_with(std::initializer_list<std::pair<Operand, QuantSpec>> specs) {
  LinearRecipe r;
  for (const auto& [operand, spec] : specs) r[operand].quant = spec;
  return r;
}

TEST(LinearSources, EveryMechanismOffIsTheBf16ProductBitForBit) {
  Layer off(recipe_of(LinearRecipe{}));
  Layer bf16(unquantised_recipe(ElementFormat::BF16));
  off.run();
  bf16.run();
  OwnedTensor w(DType::BF16, {off.shape.out, off.shape.in});
  convert(off.w, w);
  OwnedTensor y(DType::F32, {off.shape.tokens, off.shape.out});
  gemm({QTensor::view(off.x)}, {QTensor::view(w)}, y, Accumulate::Overwrite, off.arena);
  EXPECT_EQ(values(off.y), values(y));
  EXPECT_EQ(values(off.y), values(bf16.y));
  EXPECT_EQ(values(off.dx), values(bf16.dx));
  EXPECT_EQ(values(off.dw), values(bf16.dw));
}

TEST(LinearSources, TransposedOperandsHaveTheirBlocksAlongTheContraction) {
  LinearRecipe r = bf16_with({{Operand::FpropX, nvfp4()},
                              {Operand::FpropW, nvfp4()},
                              {Operand::DgradDy, nvfp4()},
                              {Operand::DgradW, nvfp4(Rounding::NearestEven, true)},
                              {Operand::WgradDy, nvfp4(Rounding::NearestEven, true)},
                              {Operand::WgradX, nvfp4(Rounding::NearestEven, true)}});
  Layer l(recipe_of(r), kShape);
  l.run();
  const Matrix w = stored(l.quantised(Operand::DgradW, l.w));
  const Matrix dy = stored(l.quantised(Operand::WgradDy, l.dy));
  const Matrix x = stored(l.quantised(Operand::WgradX, l.x));
  EXPECT_LT(error(l.dx, l.dgrad(stored(l.quantised(Operand::DgradDy, l.dy)), transposed(w, kShape.in, kShape.out))),
            2e-6);
  EXPECT_LT(error(l.dw, l.wgrad(transposed(dy, kShape.out, kShape.tokens), transposed(x, kShape.in, kShape.tokens))),
            2e-6);
}

TEST(LinearSources, RequantisedOperandsStartFromTheValuesOfFprop) {
  LinearRecipe r = bf16_with({{Operand::FpropX, nvfp4()},
                              {Operand::FpropW, nvfp4()},
                              {Operand::DgradW, mxfp4(ScaleRule::Ceil6, Rounding::NearestEven, true)},
                              {Operand::WgradX, mxfp4(ScaleRule::Ceil6, Rounding::NearestEven, true)}});
  r[Operand::DgradW].source = r[Operand::WgradX].source = OperandSource::Requantise;
  Layer l(recipe_of(r), kShape);
  l.run();
  OwnedTensor x(DType::F32, {kShape.tokens, kShape.in});
  OwnedTensor w(DType::F32, {kShape.out, kShape.in});
  dequantize(l.quantised(Operand::FpropX, l.x), x);
  dequantize(l.quantised(Operand::FpropW, l.w), w);
  const Matrix xx = transposed(stored(l.quantised(Operand::WgradX, x)), kShape.in, kShape.tokens);
  const Matrix ww = transposed(stored(l.quantised(Operand::DgradW, w)), kShape.in, kShape.out);
  EXPECT_LT(error(l.dx, l.dgrad(values(l.dy), ww)), 2e-6);
  EXPECT_LT(error(l.dw, l.wgrad(values(l.dy), xx)), 2e-6);
  EXPECT_GT(distance(values(l.dw), l.wgrad(values(l.dy), values(x))), 1e-3);  // it does round again
}

// Tiles of 32 x 32 have one scale in both directions, so what fprop stored is on the grid of the second quantiser.
TEST(LinearSources, StochasticRequantisationOfValuesOnTheirGridIsTheIdentity) {
  QuantSpec tile = mxfp4(ScaleRule::Ceil6);
  tile.granularity = Granularity::block(32, 32);
  LinearRecipe r = bf16_with({{Operand::FpropX, tile}, {Operand::FpropW, tile}});
  r[Operand::DgradW].source = r[Operand::WgradX].source = OperandSource::Fprop;
  Layer reused(recipe_of(r), kShape);
  tile.rounding = Rounding::Stochastic;
  tile.transposed = true;
  for (const Operand o : {Operand::DgradW, Operand::WgradX}) {
    r[o].source = OperandSource::Requantise;
    r[o].quant = tile;
  }
  Layer again(recipe_of(r), kShape);
  reused.run();
  again.run();
  EXPECT_LT(error(again.dx, values(reused.dx)), 1e-6);
  EXPECT_LT(error(again.dw, values(reused.dw)), 1e-6);
}

TEST(LinearSources, RequantisationLeavesTheSparseResidualToItsOwnProduct) {
  QuantSpec clamped;
  clamped.element = ElementFormat::E2M1;
  clamped.scale = ScaleRule::Absmax;
  clamped.clamp = {0.99, true, ResidualMode::Sparse};
  QuantSpec again = testing::unquantised(ElementFormat::F32, true);
  LinearRecipe r = bf16_with({{Operand::FpropX, clamped}, {Operand::WgradX, again}});
  r[Operand::WgradX].source = OperandSource::Requantise;
  Layer l(recipe_of(r));
  l.run();
  const QTensor x = l.quantised(Operand::FpropX, l.x);
  Matrix whole = stored(x);
  const Matrix residual = testing::dense(x.residual);
  for (std::size_t i = 0; i < whole.size(); ++i) whole[i] += residual[i];
  EXPECT_LT(error(l.dw, l.wgrad(values(l.dy), whole)), 2e-6);
}

/// Everything stochastic, blocks along the contractions, signs once a step.
LinearRecipe stochastic_backward(QuantSpec (*format)(Rounding, bool), Rounding rounding, OperandSource source) {
  LinearRecipe r = bf16_with({{Operand::FpropX, nvfp4()}, {Operand::FpropW, nvfp4()}});
  for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
    r[o].quant = rotated(format(rounding, o != Operand::DgradDy), 32, Signs::Step);
  }
  r[Operand::DgradW].source = r[Operand::WgradX].source = source;
  return r;
}

QuantSpec mx34(Rounding rounding, bool transposed) { return mxfp4(ScaleRule::RangeMatch34, rounding, transposed); }

TEST(LinearSources, MicroBatchesDrawTheRandomNumbersOfTheWholeBatch) {
  LinearRecipe r = stochastic_backward(mx34, Rounding::Stochastic, OperandSource::HighPrecision);
  r[Operand::FpropX].quant = mxfp4(ScaleRule::Ceil6, Rounding::Stochastic);
  Layer whole(recipe_of(r), kShape);
  whole.pass.tokens_per_step = kShape.tokens;
  whole.run();
  Layer parts(recipe_of(r), kShape);
  parts.prepare();
  const std::int64_t half = kShape.tokens / 2;
  for (const std::int64_t begin : {std::int64_t{0}, half}) {
    PassContext pass = parts.pass;
    pass.first_token = begin;
    pass.overwrite_gradients = begin == 0;
    pass.tokens_per_step = kShape.tokens;
    const auto rows = [&](const Tensor& t) { return t.row_range(begin, begin + half); };
    const Linear::Saved saved = parts.linear.forward(rows(parts.x), rows(parts.y), {}, pass);
    parts.linear.backward(rows(parts.dy), saved, rows(parts.dx), parts.dw, pass);
  }
  EXPECT_LT(error(parts.y, values(whole.y)), 1e-6);
  EXPECT_LT(error(parts.dx, values(whole.dx)), 1e-6);
  EXPECT_LT(error(parts.dw, values(whole.dw)), 1e-6);
}

TEST(LinearSources, SignsOfACallDifferBetweenMicroBatchesAndThoseOfAStepDoNot) {
  for (const Signs signs : {Signs::Step, Signs::Call}) {
    LinearRecipe r;
    r[Operand::DgradDy].quant = rotated(nvfp4(), 32, signs);
    r[Operand::DgradW].quant = rotated(nvfp4(Rounding::NearestEven, true), 32, signs);
    Layer l(recipe_of(r), kShape);
    l.pass.tokens_per_step = 2 * kShape.tokens;
    l.run();
    const Matrix first = values(l.dx);
    l.pass.first_token = kShape.tokens;
    l.backward();
    EXPECT_EQ(first == values(l.dx), signs == Signs::Step);
    EXPECT_LT(distance(values(l.dx), first), 0.3);
  }
}

TEST(LinearSources, SamplesAverageIndependentRoundingsOfTheGradient) {
  LinearRecipe r;
  r[Operand::WgradDy].quant = nvfp4(Rounding::Stochastic, true);
  Layer one(recipe_of(r), kShape);
  r[Operand::WgradDy].samples = 16;
  Layer many(recipe_of(r), kShape);
  one.run();
  const Matrix exact = one.wgrad(values(one.dy), values(one.x));
  const double single = distance(values(one.dw), exact);
  const double averaged = distance(values(many.run().dw), exact);
  EXPECT_GT(single / averaged, 3);  // sqrt(16) = 4
  EXPECT_LT(single / averaged, 5);
  Matrix twice = values(many.dw);
  for (double& v : twice) v *= 2;
  many.pass.overwrite_gradients = false;
  many.backward();
  EXPECT_LT(error(many.dw, twice), 1e-6);
}

/// Relative error of the mean of n gradients, each of a step of its own, against the product of the quantised forward.
struct Means {
  double dx_few, dx_many, dw_few, dw_many;
};

Means average(const LinearRecipe& r, int few, int many, Shape shape = {64, 64, 64}, float outliers = 20) {
  Layer l(recipe_of(r), shape, DType::BF16, outliers);
  Matrix dx(static_cast<std::size_t>(shape.tokens * shape.in));
  Matrix dw(static_cast<std::size_t>(shape.out * shape.in));
  Means means{};
  Matrix exact_dx;
  Matrix exact_dw;
  for (int n = 1; n <= many; ++n) {
    l.arena.rewind({});
    l.weights.rewind({});
    l.pass.step = static_cast<std::uint32_t>(n);
    l.run();
    if (n == 1) {
      exact_dx = l.dgrad(values(l.dy), stored(l.quantised(Operand::FpropW, l.w)));
      exact_dw = l.wgrad(values(l.dy), stored(l.quantised(Operand::FpropX, l.x)));
    }
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += static_cast<double>(l.dx.view().data<float>()[i]);
    for (std::size_t i = 0; i < dw.size(); ++i) dw[i] += static_cast<double>(l.dw.view().data<float>()[i]);
    if (n != few && n != many) continue;
    Matrix mean_dx = dx;
    Matrix mean_dw = dw;
    for (double& v : mean_dx) v /= n;
    for (double& v : mean_dw) v /= n;
    (n == few ? means.dx_few : means.dx_many) = distance(mean_dx, exact_dx);
    (n == few ? means.dw_few : means.dw_many) = distance(mean_dw, exact_dw);
  }
  return means;
}

TEST(LinearSources, GradientsOfStochasticRoundingConvergeToThoseOfTheQuantisedForward) {
  const Means m = average(stochastic_backward(mx34, Rounding::Stochastic, OperandSource::Requantise), 16, 256);
  EXPECT_NEAR(m.dx_few / m.dx_many, 4, 0.6);
  EXPECT_NEAR(m.dw_few / m.dw_many, 4, 0.6);
}

TEST(LinearSources, GradientsOfMsEdenConvergeToThoseOfTheQuantisedForward) {
  const auto eden = [](Rounding rounding, bool down) {
    QuantSpec spec = nvfp4(rounding, down);
    spec.nvfp4 = {6 / 0.988125, 255.99, 1, 0, Selection::None};
    return spec;
  };
  LinearRecipe r = stochastic_backward(eden, Rounding::Eden, OperandSource::Requantise);
  for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
    r[o].quant.hadamard.group = 128;
  }
  // MS-EDEN is unbiased in the limit of long groups: without outliers, 128 is long enough for the runs counted here.
  const Means m = average(r, 8, 128, {128, 32, 128}, 1);
  EXPECT_NEAR(m.dx_few / m.dx_many, 4, 0.8);
  EXPECT_NEAR(m.dw_few / m.dw_many, 4, 0.8);
}

TEST(LinearSources, GradientsOfRoundingToNearestStayOnAPlateau) {
  LinearRecipe r = stochastic_backward(mx34, Rounding::NearestEven, OperandSource::Requantise);
  for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX})
    r[o].quant.hadamard = {};
  const Means m = average(r, 16, 64);
  EXPECT_NEAR(m.dx_few / m.dx_many, 1, 0.01);
  EXPECT_NEAR(m.dw_few / m.dw_many, 1, 0.01);
  EXPECT_GT(m.dx_many, 0.05);
}

// "Training LLMs with MXFP4": both operands straight from high precision.
TEST(LinearSources, GradientsOfAmazonsModeThreeConvergeToTheExactProduct) {
  LinearRecipe r = stochastic_backward(mx34, Rounding::Stochastic, OperandSource::HighPrecision);
  for (const Operand o : {Operand::FpropX, Operand::FpropW}) r[o].quant = testing::unquantised(ElementFormat::BF16);
  for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
    r[o].quant.hadamard.group = 64;
  }
  const Means m = average(r, 16, 256);
  EXPECT_NEAR(m.dx_few / m.dx_many, 4, 0.6);
  EXPECT_NEAR(m.dw_few / m.dw_many, 4, 0.6);
}

}  // namespace
}  // namespace nibble
