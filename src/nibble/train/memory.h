// Whether a run fits into its device's memory, asked before it begins.
#pragma once

#include <string>

#include "nibble/model/memory.h"
#include "nibble/train/config.h"

namespace nibble {

/// The run's question to model/memory.h: its model, recipe, passes, optimizer and level of recomputation, on one of so
/// many ranks.
MemoryQuestion memory_question(const TrainConfig& config, const Recipe& recipe, int ranks = 1);

/// Memory that a run can have on a device.
struct DeviceMemory {
  std::string name;  ///< "the CPU", "the GPU (NVIDIA H100 80GB HBM3)"
  double bytes = 0;  ///< of a GPU what is free now, of a CPU all that the machine has
};
DeviceMemory device_memory(Device device);

/// Empty where the run fits. Else one sentence: how much it needs, how much there is, and which settings would fit.
/// Those that leave the run's numbers alone come first: levels of recomputation, then smaller passes, both together,
/// and the FP8 optimizer with both.
std::string memory_refusal(const TrainConfig& config, const Recipe& recipe, const DeviceMemory& memory, int ranks = 1);

}  // namespace nibble
