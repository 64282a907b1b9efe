// The memory that training takes on a device, for `nibble cost`: model/memory.h asked for a device that may not be
// here. Nothing is offloaded.
#pragma once

#include "nibble/cost/step.h"
#include "nibble/model/memory.h"

namespace nibble {

/// The plan of a run on the device, as one of `sharding.ranks`, some steps of which are measured.
MemoryPlan memory_cost(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                       const OptimizerLayout& optimizer, Recompute recompute, const DeviceSpec& device,
                       const Sharding& sharding = {});

/// The most sequences a pass that fit into the device's memory, at least 0.
std::int64_t largest_micro_batch(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                                 const OptimizerLayout& optimizer, Recompute recompute, const DeviceSpec& device,
                                 const Sharding& sharding = {});

}  // namespace nibble
