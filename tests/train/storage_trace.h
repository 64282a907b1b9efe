// A few steps of a small model by the FP8 optimizer, and everything that they leave behind.
#pragma once

#include <gtest/gtest.h>

#include <random>

#include "nibble/tensor/device.h"
#include "nibble/train/optimizer.h"
#include "tests/model/small_llama.h"
#include "tests/recipe/shipped_recipes.h"

namespace nibble::testing_support {

inline constexpr std::int64_t kSequences = 2;

inline std::vector<float> floats(const Tensor& t) {
  const OwnedTensor here = copy_to(t, Device::Cpu);
  return {here.view().data<float>(), here.view().data<float>() + t.numel()};
}

struct StorageTrace {
  std::vector<double> figures;  // losses, norms, quality
  std::vector<std::vector<float>> weights;
};

/// Three steps of two passes each by the FP8 optimizer; the second one is measured.
inline StorageTrace train_by(const Recipe& recipe, std::size_t stage, Device device, ParameterStorage storage) {
  const LlamaConfig c = small_llama(1);
  Llama model(c, recipe, 5, DType::BF16, device, storage);
  model.set_stage(stage);
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(OptimizerKind::AdamWFp8, model);
  StorageTrace trace;
  std::mt19937 rng(2);
  const std::int64_t n = kSequences * c.seq;
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(n));
  const OutlierChannels& outliers = recipe.base().outlier_channels;
  const auto first = static_cast<std::uint32_t>(outliers.enabled() ? outliers.last_step : 1);
  for (std::uint32_t step = first; step < first + 3; ++step) {
    const bool measure = step == first + 1;
    model.prepare(step, measure);
    for (std::int64_t pass = 0; pass < 2; ++pass) {
      for (std::int32_t& t : tokens) t = static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab));
      const Tensor batch = Tensor::of(tokens.data(), {kSequences, c.seq});
      trace.figures.push_back(
          model.forward_backward({batch, batch}, 1e-2, step, pass * n, pass == 0, measure, 2 * n).sum);
    }
    trace.figures.push_back(model.squares_of_gradients());
    AdamWStep update;
    update.lr = 0.01f;
    update.t = step - first + 1;
    optimizer->step(update);
    if (model.after_update(step, first + 4) > 0) optimizer->parameters_changed();
    for (const Linear& linear : model.linears()) {
      for (const ProductQuality& p : linear.products()) trace.figures.push_back(p.dot);
    }
  }
  for (const Parameter& p : model.parameters()) trace.weights.push_back(floats(values_of(p)));
  return trace;
}

/// In every stage.
inline void expect_bits_of_f32_storage(const Recipe& recipe, Device device) {
  for (std::size_t stage = 0; stage < recipe.stages.size(); ++stage) {
    const StorageTrace wide = train_by(recipe, stage, device, {});
    const StorageTrace half = train_by(recipe, stage, device, {.half_weights = true});
    EXPECT_EQ(wide.figures, half.figures);
    EXPECT_TRUE(wide.weights == half.weights);
  }
}

}  // namespace nibble::testing_support
