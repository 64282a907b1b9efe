#include "nibble/cost/memory.h"

namespace nibble {

MemoryPlan memory_cost(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                       const OptimizerLayout& optimizer, Recompute recompute, const DeviceSpec& device,
                       const Sharding& sharding) {
  MemoryQuestion q;
  q.model = model;
  q.model.seq = batch.seq;
  q.recipe = recipe;
  q.sequences = batch.micro_sequences;
  q.several_passes = batch.sequences > batch.micro_sequences;
  q.linears = q.others = {optimizer.master, optimizer.gradient, optimizer.first_moment, optimizer.second_moment};
  if (optimizer.other_master > 0) q.others.weight = optimizer.other_master;
  if (optimizer.other_gradient > 0) q.others.gradient = optimizer.other_gradient;
  q.recompute = recompute;
  q.device = device.is_cpu ? Device::Cpu : Device::Cuda;
  q.sharding = sharding;
  return plan_memory(q);
}

std::int64_t largest_micro_batch(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                                 const OptimizerLayout& optimizer, Recompute recompute, const DeviceSpec& device,
                                 const Sharding& sharding) {
  const auto fits = [&](std::int64_t sequences) {
    Batch b = batch;
    b.micro_sequences = sequences;
    b.sequences = std::max(batch.sequences, sequences);
    return memory_cost(model, recipe, b, optimizer, recompute, device, sharding).total() <= device.memory_bytes;
  };
  // It grows with the pass: the first power of two that does not fit, then halving.
  std::int64_t below = 0;
  std::int64_t above = 1;
  while (above < (std::int64_t{1} << 30) && fits(above)) {
    below = above;
    above *= 2;
  }
  while (above - below > 1) {
    const std::int64_t middle = below + (above - below) / 2;
    (fits(middle) ? below : above) = middle;
  }
  return below;
}

}  // namespace nibble
