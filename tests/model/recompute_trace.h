// A few steps of a small model at a level of recomputation, and everything that they leave behind.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "nibble/model/llama.h"
#include "nibble/tensor/device.h"
#include "tests/model/small_llama.h"
#include "tests/recipe/shipped_recipes.h"

namespace nibble::testing_support {

inline constexpr std::int64_t kMicroSequences = 2;
inline constexpr std::int64_t kMicroBatches = 2;
inline constexpr std::int64_t kMicroTokens = kMicroSequences * 64;

using Bytes = std::vector<unsigned char>;
inline Bytes fetched_bytes(const Tensor& tensor) {
  const OwnedTensor here = copy_to(tensor, Device::Cpu);
  const auto* bytes = static_cast<const unsigned char*>(here.view().raw());
  return {bytes, bytes + here.view().bytes()};
}

/// Everything that a few steps leave behind.
struct Trace {
  std::vector<double> losses, quality;
  std::vector<Bytes> gradients;
  Bytes weights;
  std::map<std::string, Bytes> state;
  std::int64_t seen = 0;  // by the observer
  std::size_t peak = 0;
};

/// Steps `first`, and `first` + 1, which is measured.
inline Trace trace_of(const LlamaConfig& c, const Recipe& recipe, std::size_t stage, Recompute recompute, Device device,
                      std::uint32_t first) {
  Llama model(c, recipe, 3, DType::BF16, device);
  model.set_stage(stage);
  model.set_recompute(recompute);
  Trace trace;
  model.set_observer([&](const Linear&, Operand, const Tensor&) { ++trace.seen; });
  std::mt19937 rng(11);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(kMicroTokens));
  for (std::uint32_t step = first; step < first + 2; ++step) {
    const bool measure = step == first + 1;
    for (Linear& linear : model.linears()) linear.reset_quality();
    model.prepare(step, measure);
    for (std::int64_t m = 0; m < kMicroBatches; ++m) {
      for (std::int32_t& t : tokens) t = static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab));
      const Tensor batch = Tensor::of(tokens.data(), {kMicroSequences, c.seq});
      trace.losses.push_back(model
                                 .forward_backward({batch, batch}, 1.0 / (kMicroBatches * kMicroTokens), step,
                                                   m * kMicroTokens, m == 0, measure, kMicroBatches * kMicroTokens)
                                 .sum);
    }
    trace.gradients.push_back(fetched_bytes(model.flat_grads()));
    const OwnedTensor gradient = copy_to(model.flat_grads(), Device::Cpu);
    const OwnedTensor weights = copy_to(model.flat_values(), Device::Cpu);
    float* w = weights.view().data<float>();
    for (std::int64_t i = 0; i < weights.view().numel(); ++i) w[i] -= 0.05f * gradient.view().data<float>()[i];
    copy(weights, model.flat_values());
    model.after_update(step, first + 10);
    if (!measure) continue;
    for (const Linear& linear : model.linears()) {
      for (const QuantQuality& q : linear.quality()) {
        trace.quality.insert(trace.quality.end(), {q.signal, q.noise, static_cast<double>(q.count)});
      }
      for (const ProductQuality& p : linear.products()) trace.quality.push_back(p.dot);
    }
  }
  trace.weights = fetched_bytes(model.flat_values());
  model.visit_linear_state([&](const StateTensor& t) { trace.state.emplace(t.name, fetched_bytes(t.rows)); });
  trace.peak = model.activation_peak_bytes();
  return trace;
}

/// Every level gives the bits of what is kept, in every stage.
inline void expect_recomputed_bits(const Recipe& recipe, Device device, const LlamaConfig& c = small_llama(2)) {
  // Outlier channels are chosen at the end of their window, which the steps straddle; elsewhere any steps do.
  const OutlierChannels& outliers = recipe.base().outlier_channels;
  const auto first = static_cast<std::uint32_t>(outliers.enabled() ? outliers.last_step : 1);
  for (std::size_t stage = 0; stage < recipe.stages.size(); ++stage) {
    const Trace kept = trace_of(c, recipe, stage, Recompute::None, device, first);
    for (const auto& [name, level] : {std::pair{"block-parts", Recompute::BlockParts}, {"block", Recompute::Block}}) {
      SCOPED_TRACE(fmt::format("{}, stage {}", name, stage));
      const Trace again = trace_of(c, recipe, stage, level, device, first);
      EXPECT_EQ(again.losses, kept.losses);
      EXPECT_EQ(std::memcmp(again.quality.data(), kept.quality.data(), kept.quality.size() * sizeof(double)), 0);
      EXPECT_TRUE(again.gradients == kept.gradients);
      EXPECT_TRUE(again.weights == kept.weights);
      EXPECT_TRUE(again.state == kept.state);
      EXPECT_EQ(again.seen, kept.seen);
    }
  }
}

}  // namespace nibble::testing_support
