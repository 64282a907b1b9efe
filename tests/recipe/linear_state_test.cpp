// What a layer keeps from step to step: averages, oscillation, and how it passes through a checkpoint.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "nibble/quant/hadamard.h"
#include "tests/recipe/linear_testing.h"

namespace nibble {
namespace {

using testing::Layer;
using testing::Matrix;
using testing::mxfp4;
using testing::nvfp4;
using testing::recipe_of;
using testing::Shape;
using testing::stored;
using testing::values;

constexpr Shape kShape{32, 64, 32};

LinearRecipe with_weight(const QuantSpec& quant) {
  LinearRecipe r;
  r[Operand::FpropW].quant = quant;
  return r;
}

LinearRecipe q_ema() {
  LinearRecipe r = with_weight(mxfp4(ScaleRule::Ceil6, Rounding::Reference));
  r.weight_average = {.decay = 0.75, .start_step = 4};
  return r;
}

TEST(WeightAverage, EqualToTheWeightItRoundsToNearest) {
  Layer ema(recipe_of(q_ema()), kShape);
  Layer nearest(recipe_of(with_weight(mxfp4(ScaleRule::Ceil6))), kShape);
  EXPECT_EQ(values(ema.run().y), values(nearest.run().y));
}

TEST(WeightAverage, FollowsTheWeightFromItsFirstStepOn) {
  Layer l(recipe_of(q_ema()), kShape);
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  Matrix average;
  for (std::int64_t step = 3; step <= 8; ++step) {
    l.pass.step = static_cast<std::uint32_t>(step);
    l.prepare();
    for (std::int64_t i = 0; i < l.w.view().numel(); ++i) l.w.view().data<float>()[i] += 0.01f * normal(rng);
    l.linear.after_update(l.w, step, 100, l.scratch);
    const Matrix w = values(l.w);
    if (step <= 4) average = w;
    for (std::size_t i = 0; i < w.size() && step > 4; ++i) average[i] = 0.75 * average[i] + 0.25 * w[i];
  }
  Matrix kept;
  l.linear.visit_state(l.w, [&](const std::string& name, const Tensor& t) {
    EXPECT_EQ(name, "weight_average");
    kept = values(t);
  });
  EXPECT_LT(testing::error(kept, average), 1e-6);

  // And W is rounded to whichever neighbour is nearer to it.
  l.x = OwnedTensor(DType::BF16, {kShape.in, kShape.in});  // X = 1 shows Q(W)^T
  l.y = OwnedTensor(DType::F32, {kShape.in, kShape.out});
  for (std::int64_t i = 0; i < kShape.in; ++i) l.x.view().data<bf16>()[i * kShape.in + i] = bf16_encode(1);
  l.prepare();
  l.forward();
  OwnedTensor reference(DType::F32, {kShape.out, kShape.in});
  for (std::size_t i = 0; i < kept.size(); ++i) reference.view().data<float>()[i] = static_cast<float>(kept[i]);
  QuantizeContext context;
  context.reference = reference;
  const QTensor q = quantize(l.w, l.linear.recipe()[Operand::FpropW].quant, context, l.arena);
  EXPECT_EQ(testing::transposed(values(l.y), kShape.in, kShape.out), stored(q));
  EXPECT_NE(stored(q), stored(l.quantised(Operand::WgradX, l.w)));
}

/// A weight of one row a block, scale 1 for the row: its largest element is 6.
struct Oscillating {
  OwnedTensor w{DType::F32, {2, 8}};
  Recipe recipe;
  Linear linear;
  Arena weights{Device::Cpu, 1 << 16}, scratch{Device::Cpu, 1 << 16};

  explicit Oscillating(OscillationReset::Criterion criterion, double threshold)
      : recipe(recipe_of([&] {
          QuantSpec row;
          row.element = ElementFormat::E2M1;
          row.scale = ScaleRule::Absmax;
          LinearRecipe r = with_weight(row);
          r.oscillation_reset = {criterion, threshold, 0.5, 10, 4};
          return r;
        }())),
        linear("layers.0.mlp.down", 0, recipe, 0, 1) {
    const float rows[] = {6, 1.24f, 0.10f, 2.45f, -1.24f, 0, 3, 5, 6, 1, 2, 3, 4, 0, 0.1f, -0.1f};
    std::copy_n(rows, 16, w.view().data<float>());
    linear.prepare(w, 1, 1, weights, scratch, false);
  }
  float& at(std::int64_t i) { return w.view().data<float>()[i]; }
  std::int64_t after(std::int64_t step) { return linear.after_update(w, step, 40, scratch); }
};

TEST(OscillationReset, SetsExactlyTheWeightsThatFlipMoreThanTheyMove) {
  Oscillating o(OscillationReset::Criterion::Ratio, 8);
  std::int64_t resets = 0;
  for (std::int64_t step = 1; step <= 23; ++step) {         // the window's steps are 21 to 24
    o.at(1) = step % 2 == 0 ? 1.24f : 1.26f;                // flips by .5 for .02 each step
    o.at(4) = step < 22 ? -1.24f : -1.26f;                  // flips once, for .02: a ratio of 25
    o.at(2) = 0.1f + 0.01f * static_cast<float>(step);      // .01 a step, from .30 to .34: no flip
    o.at(3) = 2.45f + 0.2f * static_cast<float>(step % 2);  // flips by 1 for .2: a ratio of 5
    resets += o.after(step);
  }
  EXPECT_EQ(resets, 0);
  Matrix expected = values(o.w);
  o.at(1) = 1.24f;
  expected[1] = 1.0;   // Q(1.24)
  expected[4] = -1.5;  // Q(-1.26)
  EXPECT_EQ(o.after(24), 2);
  EXPECT_EQ(values(o.w), expected);
  EXPECT_EQ(o.after(24), 0);  // idempotent
  EXPECT_EQ(values(o.w), expected);
  for (std::int64_t step = 25; step <= 34; ++step) EXPECT_EQ(o.after(step), 0);  // a quiet window, 31 to 34
}

TEST(OscillationReset, EdgeCriterionSetsWeightsNextToAThreshold) {
  Oscillating o(OscillationReset::Criterion::Edge, 0.495);
  const std::pair<float, float> cases[] = {{0.2480f, 0}, {0.2470f, 0.2470f}, {1.2480f, 1},  {1.2470f, 1.2470f},
                                           {2.3800f, 2}, {2.3700f, 2.3700f}, {-3.4960f, -3}};
  for (std::int64_t i = 0; i < 7; ++i) o.at(i + 1) = cases[i].first;
  for (std::int64_t step = 1; step <= 23; ++step) EXPECT_EQ(o.after(step), 0);
  EXPECT_EQ(o.after(24), 4);
  for (std::int64_t i = 0; i < 7; ++i) EXPECT_EQ(o.at(i + 1), cases[i].second) << i;
  EXPECT_EQ(o.at(0), 6);
  EXPECT_EQ(o.after(24), 0);
}

TEST(OscillationReset, RotatedWeightsAreResetInTheBasisThatTheyAreRoundedIn) {
  QuantSpec spec = testing::rotated(mxfp4(ScaleRule::Ceil6), 32, Hadamard::Signs::Plus);
  LinearRecipe r;
  r[Operand::FpropX].quant = testing::rotated(testing::unquantised(ElementFormat::BF16), 32, Hadamard::Signs::Plus);
  r[Operand::FpropW].quant = spec;
  r.oscillation_reset = {OscillationReset::Criterion::Edge, 0.45, 0, 4, 1};
  Layer l(recipe_of(r), kShape);
  l.prepare();
  const Matrix before = values(l.w);
  OwnedTensor rotated(DType::F32, {kShape.out, kShape.in});
  hadamard_forward(l.w, spec.hadamard, {}, rotated);
  const Matrix original = values(rotated);
  const Matrix quantised = stored(l.quantised(Operand::FpropW, l.w));
  const std::int64_t resets = l.linear.after_update(l.w, 1, 100, l.scratch);
  EXPECT_GT(resets, 0);
  hadamard_forward(l.w, spec.hadamard, {}, rotated);
  std::int64_t moved = 0;
  for (std::size_t i = 0; i < original.size(); ++i) {
    const double now = values(rotated)[i];
    const bool stayed = std::abs(now - original[i]) < 1e-7;
    EXPECT_TRUE(stayed || std::abs(now - quantised[i]) < 1e-7);
    moved += stayed ? 0 : 1;
  }
  EXPECT_EQ(moved, resets);
}

/// Everything that has state at once.
LinearRecipe stateful() {
  LinearRecipe r = with_weight(nvfp4(Rounding::Reference));
  r[Operand::FpropX].quant = nvfp4();
  r.weight_average = {.decay = 0.9, .start_step = 2};
  r.outlier_channels = {.share = 0.2, .multiple = 4, .first_step = 2, .last_step = 4, .quant = testing::mxfp8()};
  r.oscillation_reset = {OscillationReset::Criterion::Ratio, 1.5, 0.1, 5, 3};
  return r;
}

/// A step with a pseudo update that wobbles, so that there is something to reset. Returns the resets.
std::int64_t step(Layer& l, std::int64_t number) {
  l.arena.rewind({});
  l.weights.rewind({});
  l.pass.step = static_cast<std::uint32_t>(number);
  l.run();
  for (std::int64_t i = 0; i < l.w.view().numel(); ++i) {
    l.w.view().data<float>()[i] += (number % 2 == 0 ? 0.004f : -0.004f) + 10 * l.dw.view().data<float>()[i];
  }
  return l.linear.after_update(l.w, number, 20, l.scratch);
}

TEST(LinearState, PassesThroughACheckpointBitForBit) {
  std::int64_t resets = 0;
  for (std::int64_t stop = 0; stop <= 12; ++stop) {
    SCOPED_TRACE(stop);
    Layer whole(recipe_of(stateful()), kShape);
    for (std::int64_t n = 1; n <= stop; ++n) resets += step(whole, n);
    std::map<std::string, OwnedTensor> kept;
    whole.linear.visit_state(whole.w, [&](const std::string& name, const Tensor& t) {
      OwnedTensor copy(t.dtype(), t.shape());
      std::memcpy(copy.view().raw(), t.raw(), t.bytes());
      EXPECT_TRUE(kept.emplace(name, std::move(copy)).second) << name;
    });
    EXPECT_EQ(kept.size(), 7u);
    Layer resumed(recipe_of(stateful()), kShape);
    convert(whole.w, resumed.w);
    resumed.linear.visit_state(resumed.w, [&](const std::string& name, const Tensor& t) {
      ASSERT_EQ(kept.at(name).view().bytes(), t.bytes());
      std::memcpy(t.raw(), kept.at(name).view().raw(), t.bytes());
    });
    for (std::int64_t n = stop + 1; n <= stop + 6; ++n) EXPECT_EQ(step(whole, n), step(resumed, n));
    EXPECT_EQ(values(whole.w), values(resumed.w));
    EXPECT_EQ(values(whole.y), values(resumed.y));
    EXPECT_EQ(values(whole.dw), values(resumed.dw));
  }
  EXPECT_GT(resets, 0);
}

TEST(LinearState, ANewStageKeepsWhatItDoesAsTheOldOneDid) {
  Recipe recipe = recipe_of(stateful());
  recipe.stages.push_back(recipe.stages.front());
  LinearRecipe& second = recipe.stages[1].linear.front();
  second[Operand::DgradDy].quant = nvfp4();
  second.weight_average = {};
  second[Operand::FpropW].quant.rounding = Rounding::NearestEven;
  Layer l(recipe, kShape);
  for (std::int64_t n = 1; n <= 6; ++n) step(l, n);
  std::map<std::string, Matrix> before;
  const auto collect = [&](std::map<std::string, Matrix>& to) {
    l.linear.visit_state(l.w, [&](const std::string& name, const Tensor& t) {
      if (t.dtype() == DType::F32) to[name] = values(t);
    });
  };
  collect(before);
  l.linear.set_stage(1);
  std::map<std::string, Matrix> after;
  collect(after);
  EXPECT_EQ(after.at("outlier_norms"), before.at("outlier_norms"));
  EXPECT_FALSE(after.contains("weight_average"));
  EXPECT_EQ(after.at("quantised_way"), Matrix(before.at("quantised_way").size()));  // W is rounded otherwise now
  step(l, 7);
  EXPECT_TRUE(l.saved.outliers.codes.defined());
}

TEST(LinearState, RecipesWithoutMechanismsHaveNone) {
  Layer l(unquantised_recipe(ElementFormat::BF16), kShape);
  l.run();
  EXPECT_EQ(l.linear.after_update(l.w, 3, 10, l.scratch), 0);
  l.linear.visit_state(l.w, [](const std::string& name, const Tensor&) { ADD_FAILURE() << name; });
}

}  // namespace
}  // namespace nibble
