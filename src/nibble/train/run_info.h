// What a run's log says about the run itself: RUN/run.json, and the machine's limits.
#pragma once

#include <filesystem>
#include <string>

#include "nibble/model/memory.h"
#include "nibble/train/optimizer.h"

namespace nibble {

/// Writes RUN/run.json (docs/formats.md) of a run that so many ranks begin.
void write_run_info(const std::filesystem::path& run, const TrainConfig& config, const Llama& model,
                    const Optimizer& optimizer, const MemoryPlan& plan, int ranks);

/// Seconds that the matrix products of one training token would take at this machine's measured peaks, each product on
/// the path it takes (int8, BF16 or F32; on a GPU FP8, BF16 or F32), attention in F32, on a GPU in BF16: the speed of
/// light that progress is compared with. Known after the model's first pass. What is computed again is not counted.
double ideal_seconds_per_token(const Llama& model);

/// "int8", "bf16" or "f32" of a product, or a list where the layers differ.
std::string path_summary(const Llama& model, std::size_t product);

}  // namespace nibble
