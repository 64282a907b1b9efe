// Batches in which few targets count, on the GPU against the CPU.
#include <cmath>

#include "nibble/model/llama.h"
#include "tests/cuda_testing.h"
#include "tests/model/masked_loss.h"
#include "tests/model/small_llama.h"

namespace nibble {
namespace {

using testing_support::masked_batch;
using testing_support::MaskedBatch;
using testing_support::on_cpu;

struct Pass {
  BatchLoss loss;
  std::vector<double> gradient;
};

Pass pass(MaskedBatch b, const Recipe& recipe, DType activations, Device device) {
  Llama model(testing_support::small_llama(2), recipe, 3, activations, device);
  model.prepare(1, false);
  const BatchLoss loss = model.forward_backward(
      b.batch(), 1.0 / static_cast<double>(std::max<std::int64_t>(b.counted(), 1)), 1, 0, true, false);
  const OwnedTensor gradient = on_cpu(model.flat_grads());
  return {loss, testing_support::doubles(gradient)};
}

TEST(CudaMaskedLoss, LossAndGradientAreTheCpus) {
  NIBBLE_NEEDS_GPU();
  const Recipe recipe = unquantised_recipe(ElementFormat::F32);
  for (std::uint32_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const MaskedBatch b = masked_batch(testing_support::small_llama(2), 3, seed, true);
    const Pass cpu = pass(b, recipe, DType::F32, Device::Cpu);
    const Pass gpu = pass(b, recipe, DType::F32, Device::Cuda);
    EXPECT_EQ(gpu.loss.tokens, cpu.loss.tokens);
    EXPECT_NEAR(gpu.loss.mean(), cpu.loss.mean(), 1e-5);
    double difference = 0;
    double size = 0;
    for (std::size_t i = 0; i < cpu.gradient.size(); ++i) {
      difference += (cpu.gradient[i] - gpu.gradient[i]) * (cpu.gradient[i] - gpu.gradient[i]);
      size += cpu.gradient[i] * cpu.gradient[i];
    }
    EXPECT_LT(std::sqrt(difference / size), 2e-5);
  }
}

TEST(CudaMaskedLoss, WhatDoesNotCountContributesExactlyNothing) {
  NIBBLE_NEEDS_GPU();
  const Recipe recipe = load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/bf16.toml");
  MaskedBatch b = masked_batch(testing_support::small_llama(2), 3, 5, true);
  const Pass before = pass(b, recipe, DType::BF16, Device::Cuda);
  const std::size_t seq = b.tokens.size() / 3;
  for (std::size_t i = 0; i < b.tokens.size(); ++i) {
    if (b.targets[i] < 0) b.targets[i] = -100;
    if (i >= 2 * seq) b.tokens[i] = (b.tokens[i] + 5) % 67;  // the sequence of context alone
  }
  const Pass after = pass(b, recipe, DType::BF16, Device::Cuda);
  EXPECT_EQ(after.loss.sum, before.loss.sum);
  EXPECT_TRUE(after.gradient == before.gradient);

  std::fill(b.targets.begin(), b.targets.end(), -1);
  const Pass nothing = pass(b, recipe, DType::BF16, Device::Cuda);
  EXPECT_EQ(nothing.loss.sum, 0);
  EXPECT_EQ(nothing.loss.tokens, 0);
  for (const double g : nothing.gradient) ASSERT_EQ(g, 0);
}

}  // namespace
}  // namespace nibble
