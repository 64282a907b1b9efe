// Whole models by every shipped recipe, and what stages and state mean for a model.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "nibble/model/llama.h"
#include "tests/recipe/shipped_recipes.h"

namespace nibble {
namespace {

using testing_support::ShippedRecipe;

// 128 is the longest group of a transform among the recipes.
LlamaConfig small() {
  LlamaConfig c;
  c.layers = 1;
  c.width = 128;
  c.heads = 4;
  c.kv_heads = 4;
  c.ffn = 128;
  c.vocab = 31;
  c.seq = 128;
  return c;
}

struct Tokens {
  std::vector<std::int32_t> tokens, targets;
  explicit Tokens(const LlamaConfig& c, std::uint32_t seed = 1) {
    std::mt19937 rng(seed);
    for (std::int64_t i = 0; i < c.seq; ++i) {
      tokens.push_back(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)));
      targets.push_back(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)));
    }
  }
  Llama::Batch batch() {
    const auto seq = static_cast<std::int64_t>(tokens.size());
    return {Tensor::of(tokens.data(), {1, seq}), Tensor::of(targets.data(), {1, seq})};
  }
};

std::vector<float> copy_of(const Tensor& t) { return {t.data<float>(), t.data<float>() + t.numel()}; }

double train_step(Llama& model, std::uint32_t step, bool measure = false, std::int64_t steps = 20) {
  Tokens t(model.config(), step);
  model.prepare(step, measure);
  const double loss = model.forward_backward(t.batch(), 1.0 / 128, step, 0, true, measure).mean();
  float* w = model.flat_values().data<float>();
  const float* g = model.flat_grads().data<float>();
  for (std::int64_t i = 0; i < model.flat_values().numel(); ++i) w[i] -= 0.02f * g[i];
  model.after_update(step, steps);
  return loss;
}

using State = std::map<std::string, std::vector<unsigned char>>;
State state_of(Llama& model) {
  State state;
  model.visit_linear_state([&](const StateTensor& t) {
    const auto* bytes = static_cast<const unsigned char*>(t.rows.raw());
    EXPECT_TRUE(state.emplace(t.name, std::vector<unsigned char>(bytes, bytes + t.rows.bytes())).second) << t.name;
  });
  return state;
}

TEST_P(ShippedRecipe, GivesGradientsNearThoseOfBf16InEveryStage) {
  Llama bf16(small(), unquantised_recipe(ElementFormat::BF16), 3);
  Tokens t(small());
  bf16.prepare(1, false);
  bf16.forward_backward(t.batch(), 1.0 / 128, 1, 0, true, false);
  const std::vector<float> exact = copy_of(bf16.flat_grads());
  for (std::size_t stage = 0; stage < recipe_.stages.size(); ++stage) {
    Llama model(small(), recipe_, 3);
    model.set_stage(stage);
    model.prepare(1, false);
    model.forward_backward(t.batch(), 1.0 / 128, 1, 0, true, false);
    double dot = 0;
    double aa = 0;
    double bb = 0;
    const std::vector<float> grads = copy_of(model.flat_grads());
    for (std::size_t i = 0; i < grads.size(); ++i) {
      dot += static_cast<double>(grads[i]) * static_cast<double>(exact[i]);
      aa += static_cast<double>(grads[i]) * static_cast<double>(grads[i]);
      bb += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
    }
    const LinearRecipe& linear = recipe_.stages[stage].linear.back();
    const bool dge = linear.weight_gradient.estimator == WeightGradient::Estimator::Dge;  // which is meant to differ
    EXPECT_GT(dot / std::sqrt(aa * bb), dge ? 0.88 : 0.95) << "stage " << stage;
  }
}

TEST_P(ShippedRecipe, HasTheSameBitsOnOneThreadAndOnThreeAndWhetherItIsMeasured) {
  const int threads_before = omp_get_max_threads();
  std::vector<float> first;
  for (const int threads : {1, 3}) {
    omp_set_num_threads(threads);
    Llama model(small(), recipe_, 3);
    train_step(model, 1, threads == 3);
    if (threads == 1) first = copy_of(model.flat_values());
    EXPECT_EQ(copy_of(model.flat_values()), first);
  }
  omp_set_num_threads(threads_before);
}

INSTANTIATE_TEST_SUITE_P(Recipes, ShippedRecipe, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

/// All mechanisms with state: a moving average, outlier channels, oscillation resets.
Recipe stateful() {
  Recipe recipe = parse_recipe(R"(
name = "stateful"
[fprop.x]
element = "e2m1"
granularity = 16
scale = "nvfp4"
[fprop.w]
element = "e2m1"
granularity = 16
scale = "nvfp4"
rounding = "reference"
[dgrad.dy]
element = "e2m1"
granularity = 16
scale = "nvfp4"
rounding = "stochastic"
[weight_average]
decay = 0.9
start_step = 2
[outlier_channels]
share = 0.1
multiple = 16
first_step = 2
last_step = 3
granularity = 32
scale = "ceil6"
[oscillation_reset]
threshold = 1
start_fraction = 0.1
period = 3
window = 2
)",
                               "stateful.toml");
  return recipe;
}

TEST(LlamaState, GoesThroughACheckpointBitForBit) {
  for (const std::uint32_t stop : {0u, 2u, 4u}) {  // before, amid and after the outliers' and the watch's windows
    SCOPED_TRACE(stop);
    Llama whole(small(), stateful(), 3);
    for (std::uint32_t step = 1; step <= stop; ++step) train_step(whole, step);
    const State state = state_of(whole);
    EXPECT_EQ(state.size(), 4u * 7);
    EXPECT_TRUE(state.contains("linears.layers.0.mlp.down.weight_average"));
    Llama resumed(small(), stateful(), 3);
    convert(whole.flat_values(), resumed.flat_values());
    resumed.visit_linear_state([&](const StateTensor& t) {
      ASSERT_EQ(state.at(t.name).size(), t.rows.bytes()) << t.name;
      std::memcpy(t.rows.raw(), state.at(t.name).data(), t.rows.bytes());
    });
    for (std::uint32_t step = stop + 1; step <= stop + 3; ++step) {
      EXPECT_EQ(train_step(whole, step), train_step(resumed, step));
    }
    EXPECT_EQ(copy_of(whole.flat_values()), copy_of(resumed.flat_values()));
    EXPECT_EQ(state_of(whole), state_of(resumed));
  }
}

TEST(LlamaState, EvaluationTouchesNoneAndShowsObserversNothing) {
  Llama model(small(), stateful(), 3);
  for (std::uint32_t step = 1; step <= 4; ++step) train_step(model, step);
  const State before = state_of(model);
  int seen = 0;
  model.set_observer([&](const Linear&, Operand, const Tensor&) { ++seen; });
  Tokens t(small());
  model.prepare(5, false);
  model.evaluate(t.batch());
  model.next_token_logits(t.tokens);
  EXPECT_EQ(state_of(model), before);
  EXPECT_EQ(seen, 0);
  train_step(model, 5);
  EXPECT_EQ(seen, 4 * 3);  // x, w and dY of each layer
}

TEST(LlamaState, ResetsAreCountedOverAllLayers) {
  Llama model(small(), stateful(), 3);
  std::int64_t resets = 0;
  for (std::uint32_t step = 1; step <= 9; ++step) {
    model.prepare(step, false);
    float* w = model.flat_values().data<float>();
    for (std::int64_t i = 0; i < model.flat_values().numel(); ++i) w[i] += step % 2 == 0 ? 1e-3f : -1e-3f;
    resets += model.after_update(step, 20);
  }
  EXPECT_GT(resets, 100);
}

// Zhou et al., section 2 of its golden properties.
Recipe mixed() { return load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/zhou2025.toml"); }

TEST(ModuleWisePrecision, FeedForwardRunsInFp4AndAttentionNeverDoes) {
  Llama model(small(), mixed(), 3);
  for (const Linear& linear : model.linears()) {
    const bool ffn = linear.name().find(".mlp.") != std::string::npos;
    const ElementFormat expected = ffn ? ElementFormat::E2M1 : ElementFormat::E4M3;
    EXPECT_EQ(linear.recipe()[Operand::FpropX].quant.element, expected) << linear.name();
    EXPECT_EQ(linear.recipe()[Operand::FpropW].quant.element, expected) << linear.name();
    for (const Operand o : {Operand::DgradDy, Operand::DgradW, Operand::WgradDy, Operand::WgradX}) {
      const OperandSpec& spec = linear.recipe()[o];
      EXPECT_EQ(spec.source, OperandSource::HighPrecision);
      EXPECT_EQ(element_bits(spec.quant.element), 8) << linear.name() << " " << operand_name(o);
    }
  }
}

TEST(ModuleWisePrecision, TheLastStageIsABf16RunFromTheSameState) {
  Llama model(small(), mixed(), 3);
  for (std::uint32_t step = 1; step <= 3; ++step) train_step(model, step);
  Llama bf16(small(), unquantised_recipe(ElementFormat::BF16), 3);
  convert(model.flat_values(), bf16.flat_values());
  model.set_stage(1);
  for (std::uint32_t step = 4; step <= 6; ++step) EXPECT_EQ(train_step(model, step), train_step(bf16, step));
  EXPECT_EQ(copy_of(model.flat_values()), copy_of(bf16.flat_values()));
}

TEST(Stages, AQafTailLeavesTheForwardAsItIs) {
  const Recipe recipe = load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/fp4-all-the-way.toml");
  ASSERT_EQ(recipe.stages.size(), 2u);
  Llama model(small(), recipe, 3);
  Tokens t(small());
  model.prepare(1, false);
  const double loss = model.forward_backward(t.batch(), 1, 1, 0, true, false).sum;
  const std::vector<float> grads = copy_of(model.flat_grads());
  model.set_stage(1);
  model.prepare(1, false);
  EXPECT_EQ(model.forward_backward(t.batch(), 1, 1, 0, true, false).sum, loss);
  EXPECT_NE(copy_of(model.flat_grads()), grads);
}

TEST(Llama, TokensBeyondTheStepAreRefused) {
  Llama model(small(), unquantised_recipe(ElementFormat::BF16), 3);
  Tokens t(small());
  model.prepare(1, false);
  EXPECT_THROW(model.forward_backward(t.batch(), 1, 1, 128, false, false), InternalError);
  EXPECT_THROW(model.forward_backward(t.batch(), 1, 1, 128, false, false, 200), InternalError);
  EXPECT_GT(model.forward_backward(t.batch(), 1, 1, 128, false, false, 256).sum, 0);
}

}  // namespace
}  // namespace nibble
