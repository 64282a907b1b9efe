#include "nibble/train/memory.h"

#include <unistd.h>

#include <algorithm>

#include "nibble/dist/ordered_sum.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// Beside the FP8 optimizer's master weights only embedding, head and gains have FP32 ones.
ParameterBytes linear_bytes(const TrainConfig& config) {
  const double gradient = static_cast<double>(dtype_size(config.gradients));
  if (config.optimizer == OptimizerKind::AdamW) return {4, gradient, 4, 4};
  return {2, gradient, 1, 2};
}
ParameterBytes other_bytes(const TrainConfig& config) {
  if (config.optimizer == OptimizerKind::AdamW) return {4, 4, 4, 4};
  return {4 + 2, 4, 1, 2};
}

/// Of the rank that holds most.
void ask_for_ordered_sums(const TrainConfig& config, Sharding& sharding) {
  const std::int64_t passes = config.batch / config.micro_batch;
  const auto ranks = static_cast<int>(sharding.ranks);
  if (!config.deterministic || passes < 2 || passes < ranks) return;
  for (int r = 0; r < ranks; ++r) {
    const OrderedSum::Memory memory = OrderedSum::memory_of(r, ranks, passes);
    sharding.ordered_held = std::max(sharding.ordered_held, static_cast<double>(memory.held));
    sharding.ordered_arriving = static_cast<double>(memory.arriving);
  }
}

double travelling_gradient(ExchangeFormat format) {
  switch (format) {
    case ExchangeFormat::Bf16: return 2;
    case ExchangeFormat::Fp8: return 1;
    case ExchangeFormat::Stored: break;
  }
  return 4;  // none is stored in more
}

double needed(const TrainConfig& config, const Recipe& recipe, int ranks) {
  return plan_memory(memory_question(config, recipe, ranks)).total();
}

/// The largest pass that fits, 0 for none.
std::int64_t fitting_pass(TrainConfig config, const Recipe& recipe, int ranks, double bytes) {
  for (std::int64_t n = config.micro_batch; n >= 1; --n) {
    if (config.batch % n != 0) continue;
    config.micro_batch = n;
    if (needed(config, recipe, ranks) <= bytes) return n;
  }
  return 0;
}

}  // namespace

MemoryQuestion memory_question(const TrainConfig& config, const Recipe& recipe, int ranks) {
  MemoryQuestion q;
  q.model = config.model;
  q.recipe = recipe;
  q.sequences = config.micro_batch;
  const std::int64_t passes = config.batch / config.micro_batch;
  q.sharding.several_passes = passes > ranks;
  q.several_passes = q.sharding.several_passes && !config.deterministic && config.zero < 2;  // others overwrite
  q.linears = linear_bytes(config);
  q.others = other_bytes(config);
  q.recompute = config.recompute;
  q.measured = config.quality_every > 0;
  q.device = config.device;
  q.checkpoint_copy = config.checkpoint_async && config.device == Device::Cpu;
  q.sharding.ranks = ranks;
  q.sharding.zero = config.zero;
  q.sharding.gather = config.gather;
  q.sharding.travelling_gradient = travelling_gradient(config.exchange);
  ask_for_ordered_sums(config, q.sharding);
  return q;
}

DeviceMemory device_memory(Device device) {
  if (device == Device::Cuda) {
    const CudaDevice gpu = cuda_device();
    return {fmt::format("the GPU ({})", gpu.name), static_cast<double>(gpu.free_memory)};
  }
  return {"the CPU", static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE))};
}

std::string memory_refusal(const TrainConfig& config, const Recipe& recipe, const DeviceMemory& memory, int ranks) {
  const double bytes = needed(config, recipe, ranks);
  if (bytes <= memory.bytes) return {};
  const std::string too_much =
      fmt::format("the run needs {} of memory, {} has {}", memory_text(bytes), memory.name, memory_text(memory.bytes));
  std::string advice;
  const auto add = [&](const TrainConfig& c, const std::string& settings) {
    advice +=
        fmt::format("{}set {} ({})", advice.empty() ? "" : ", or ", settings, memory_text(needed(c, recipe, ranks)));
  };
  TrainConfig c = config;
  for (const Recompute level : {Recompute::BlockParts, Recompute::Block}) {
    if (level <= config.recompute) continue;
    c.recompute = level;
    if (needed(c, recipe, ranks) > memory.bytes) continue;
    add(c, fmt::format("train.recompute = \"{}\"", recompute_name(level)));
    break;
  }
  c = config;
  c.micro_batch = fitting_pass(c, recipe, ranks, memory.bytes);
  if (c.micro_batch > 0) add(c, fmt::format("train.micro_batch = {}", c.micro_batch));
  if (!advice.empty()) return too_much + ": " + advice;

  std::string settings;
  c = config;
  const auto fits = [&](const std::string& setting) {
    settings += (settings.empty() ? "" : ", ") + setting;
    c.micro_batch = fitting_pass(c, recipe, ranks, memory.bytes);
    if (c.micro_batch == 0) c.micro_batch = config.micro_batch;
    return needed(c, recipe, ranks) <= memory.bytes;
  };
  const auto full_advice = [&] {
    const std::string pass =
        c.micro_batch < config.micro_batch ? fmt::format(", train.micro_batch = {}", c.micro_batch) : "";
    return fmt::format("{}: set {}{} ({})", too_much, settings, pass, memory_text(needed(c, recipe, ranks)));
  };
  c.recompute = Recompute::Block;
  if (config.recompute != Recompute::Block && fits("train.recompute = \"block\"")) return full_advice();
  c.optimizer = OptimizerKind::AdamWFp8;
  if (config.optimizer != OptimizerKind::AdamWFp8 && fits("optimizer.kind = \"adamw-fp8\"")) return full_advice();
  c.gradients = DType::BF16;
  if (config.gradients != DType::BF16 && fits("train.gradients = \"bf16\"")) return full_advice();
  c.micro_batch = 1;
  return fmt::format(
      "{}, and with full recomputation, FP8 optimizer states, BF16 gradients and one sequence a pass it needs {} "
      "still: "
      "choose a smaller model or shorter sequences",
      too_much, memory_text(needed(c, recipe, ranks)));
}

}  // namespace nibble
