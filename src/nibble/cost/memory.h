// The memory that training takes on a device, for `nibble cost`: model/memory.h asked for a device that may not be
// here. Every device holds the whole model: nothing is sharded or offloaded.
#pragma once

#include "nibble/cost/step.h"
#include "nibble/model/memory.h"

namespace nibble {

/// The plan of a run on the device, some steps of which are measured.
MemoryPlan memory_cost(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                       const OptimizerLayout& optimizer, Recompute recompute, const DeviceSpec& device);

/// The most sequences a pass that fit into the device's memory, at least 0.
std::int64_t largest_micro_batch(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                                 const OptimizerLayout& optimizer, Recompute recompute, const DeviceSpec& device);

}  // namespace nibble
