// Whole models on the GPU against the CPU, by every shipped recipe.
#include <cmath>
#include <random>

#include "nibble/model/llama.h"
#include "tests/cuda_testing.h"
#include "tests/recipe/shipped_recipes.h"

namespace nibble {
namespace {

using testing_support::on_cpu;

LlamaConfig small() {
  LlamaConfig c;
  c.layers = 2;
  c.width = 256;
  c.heads = 4;
  c.kv_heads = 2;
  c.ffn = 384;
  c.vocab = 320;
  c.seq = 128;
  return c;
}

constexpr std::int64_t kSequences = 2;

struct Tokens {
  std::vector<std::int32_t> tokens, targets;
  explicit Tokens(const LlamaConfig& c) {
    std::mt19937 rng(7);
    for (std::int64_t i = 0; i < kSequences * c.seq; ++i) {
      tokens.push_back(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)));
      targets.push_back(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)));
    }
    targets[5] = -1;
  }
  Llama::Batch batch() {
    const std::int64_t seq = static_cast<std::int64_t>(tokens.size()) / kSequences;
    return {Tensor::of(tokens.data(), {kSequences, seq}), Tensor::of(targets.data(), {kSequences, seq})};
  }
};

struct Pass {
  double loss = 0;
  std::vector<double> gradient;
};

Pass run(const Recipe& recipe, std::size_t stage, Device device, DType activations = DType::BF16,
         const LlamaConfig& config = small(), const OperandObserver& observer = {}) {
  Llama model(config, recipe, 3, activations, device);
  model.set_observer(observer);
  model.set_stage(stage);
  model.prepare(1, false);
  Tokens t(config);
  Pass pass;
  pass.loss = model.forward_backward(t.batch(), 1.0 / 256, 1, 0, true, false).mean();
  const OwnedTensor gradient = on_cpu(model.flat_grads());
  pass.gradient = testing_support::doubles(gradient);
  return pass;
}

/// |a - b| / |a|.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += a[i] * a[i];
  }
  return std::sqrt(difference / size);
}

TEST(CudaLlama, InF32GivesTheGradientOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  const Recipe recipe = unquantised_recipe(ElementFormat::F32);
  const Pass cpu = run(recipe, 0, Device::Cpu, DType::F32);
  const Pass gpu = run(recipe, 0, Device::Cuda, DType::F32);
  EXPECT_NEAR(gpu.loss, cpu.loss, 1e-5);
  EXPECT_LT(distance(cpu.gradient, gpu.gradient), 2e-5);
}

TEST(CudaLlama, WithBiasesAndNormsOfHeadsGivesTheGradientOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  LlamaConfig config = small();
  config.qkv_bias = config.qk_norm = true;
  config.own_head_dim = 128;
  for (const DType activations : {DType::F32, DType::BF16}) {
    const bool f32 = activations == DType::F32;
    const Recipe recipe = unquantised_recipe(f32 ? ElementFormat::F32 : ElementFormat::BF16);
    const Pass cpu = run(recipe, 0, Device::Cpu, activations, config);
    const Pass gpu = run(recipe, 0, Device::Cuda, activations, config);
    EXPECT_NEAR(gpu.loss, cpu.loss, f32 ? 1e-5 : 1e-3);
    EXPECT_LT(distance(cpu.gradient, gpu.gradient), f32 ? 2e-5 : 0.02);
  }
}

class CudaShippedRecipe : public testing_support::ShippedRecipe {};

// The codes of equal tensors are equal bits (tests/quant). Here activations differ in their last bits after the first
// product, and in BF16's last bit after attention, so that some codes fall to the neighbour: gradients may differ by a
// part of what quantisation does to them. Without quantisation they are near.
TEST_P(CudaShippedRecipe, GivesTheLossAndGradientOfTheCpuInEveryStage) {
  NIBBLE_NEEDS_GPU();
  const Pass exact = run(unquantised_recipe(ElementFormat::BF16), 0, Device::Cpu);
  for (std::size_t stage = 0; stage < recipe_.stages.size(); ++stage) {
    SCOPED_TRACE(fmt::format("stage {}", stage));
    const Pass cpu = run(recipe_, stage, Device::Cpu);
    const Pass gpu = run(recipe_, stage, Device::Cuda);
    const bool quantised = has_scale(recipe_.stages[stage].linear.back()[Operand::DgradDy].quant.element) ||
                           has_scale(recipe_.stages[stage].linear.back()[Operand::FpropX].quant.element) ||
                           has_scale(recipe_.stages[stage].linear.back()[Operand::FpropW].quant.element);
    EXPECT_NEAR(gpu.loss, cpu.loss, quantised ? 5e-3 : 1e-3);
    EXPECT_LT(distance(cpu.gradient, gpu.gradient),
              quantised ? 0.02 + 0.75 * distance(exact.gradient, cpu.gradient) : 0.02);
  }
}

TEST_P(CudaShippedRecipe, GivesTheSameBitsTwice) {
  NIBBLE_NEEDS_GPU();
  const Pass first = run(recipe_, 0, Device::Cuda);
  const Pass second = run(recipe_, 0, Device::Cuda);
  EXPECT_EQ(first.loss, second.loss);
  EXPECT_EQ(first.gradient, second.gradient);
}

/// Whoever watches operands has X written, which else is quantised as it is made (ops/fused_quantize.h).
TEST_P(CudaShippedRecipe, GivesTheSameBitsWhereOperandsAreWatched) {
  NIBBLE_NEEDS_GPU();
  for (std::size_t stage = 0; stage < recipe_.stages.size(); ++stage) {
    SCOPED_TRACE(fmt::format("stage {}", stage));
    std::int64_t seen = 0;
    const OperandObserver watch = [&](const Linear&, Operand, const Tensor&) { ++seen; };
    const Pass watched = run(recipe_, stage, Device::Cuda, DType::BF16, small(), watch);
    const Pass alone = run(recipe_, stage, Device::Cuda);
    EXPECT_GT(seen, 0);
    EXPECT_EQ(watched.loss, alone.loss);
    EXPECT_EQ(watched.gradient, alone.gradient);
  }
}

INSTANTIATE_TEST_SUITE_P(AllRecipes, CudaShippedRecipe, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

}  // namespace
}  // namespace nibble
