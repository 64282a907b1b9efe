// A whole training step of a model on random tokens, and the time of its ops.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "nibble/tensor/device.h"
#include "nibble/train/metrics.h"
#include "nibble/train/optimizer.h"
#include "nibble/train/telemetry.h"

namespace nibble::bench {

// A recipe that acts late in a run begins to act within a bench.
inline constexpr std::int64_t kSteps = 100;

/// How a step keeps its memory small.
struct StepMemory {
  OptimizerKind optimizer = OptimizerKind::AdamW;
  DType gradients = DType::F32;
  Recompute recompute = Recompute::None;
};

struct StepTimer {
  LlamaConfig config;
  std::int64_t sequences;
  Llama model;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<std::int32_t> tokens;
  StepProfile profile;
  StepProfile* receiver = nullptr;
  std::uint32_t step = 0;

  StepTimer(const LlamaConfig& c, const Recipe& recipe, std::int64_t n, Device device = Device::Cpu,
            StepMemory memory = {})
      : config(c),
        sequences(n),
        model(c, recipe, 1, DType::BF16, device, storage_for(memory.optimizer, memory.gradients)),
        optimizer(make_optimizer(memory.optimizer, model)),
        profile(device) {
    model.set_recompute(memory.recompute);
    std::mt19937 rng(1);
    tokens.resize(static_cast<std::size_t>(n * c.seq));
    for (std::int32_t& t : tokens) t = static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab));
    set_profiled(true);
  }

  /// Whether `profile` receives the time of each op. On a GPU that slows the step down.
  void set_profiled(bool profiled) {
    receiver = profiled ? &profile : nullptr;
    model.set_profile(receiver);
  }

  /// One step; its seconds.
  double run(bool measure) {
    const auto start = std::chrono::steady_clock::now();
    const Tensor batch = Tensor::of(tokens.data(), {sequences, config.seq});
    for (Linear& linear : model.linears()) linear.reset_quality();
    model.prepare(++step, measure);
    model.forward_backward({batch, batch}, 1.0 / static_cast<double>(tokens.size()), step, 0, true, measure);
    AdamWStep update;
    update.lr = 1e-4f;
    update.t = step;
    const double norm = timed(receiver, "grad norm", [&] { return model.squares_of_gradients(); });
    update.grad_scale = norm > 1 ? static_cast<float>(1 / norm) : 1.0f;
    timed(receiver, "adamw", [&] { optimizer->step(update); });
    timed(receiver, "after update", [&] { model.after_update(step, kSteps); });
    if (measure) {
      nlohmann::ordered_json line;
      add_telemetry(gather_telemetry(model.linears()), line);
      benchmark::DoNotOptimize(line.dump());
    }
    synchronize(model.device());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

inline double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The ops of `steps` profiled steps, the longest first: "gemm fprop 12.1 ms (40.1 %), ..."; adds up all in `total`.
inline std::string by_op(const StepProfile& profile, std::size_t steps, double& total) {
  std::vector<std::pair<double, std::string>> parts;
  total = 0;
  for (const auto& [op, time] : profile.seconds()) {
    parts.emplace_back(time, op);
    total += time;
  }
  std::sort(parts.rbegin(), parts.rend());
  std::string line;
  for (const auto& [time, op] : parts) {
    line += fmt::format("{}{} {:.2f} ms ({:.1f} %)", line.empty() ? "" : ", ", op,
                        1e3 * time / static_cast<double>(steps), 100 * time / total);
  }
  return line;
}

}  // namespace nibble::bench
