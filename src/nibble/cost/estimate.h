// Everything that `nibble cost` says of one model, recipe and device.
#pragma once

#include "nibble/cost/memory.h"
#include "nibble/cost/parallel.h"
#include "nibble/cost/twelve.h"

namespace nibble {

struct CostQuestion {
  LlamaConfig model;
  Recipe recipe;
  DeviceSpec device;
  Batch batch;  ///< on one device
  OptimizerLayout optimizer;
  Recompute recompute = Recompute::None;  ///< counted in memory, not in time
  CostAssumptions assumptions;
  double tokens = 0;   ///< of the whole run
  Parallel parallel;   ///< with several ranks, `devices` is their number and what they exchange is counted
  double devices = 1;  ///< with one rank: scaling is taken to be perfect, the exchange of gradients is not counted
  double usd_per_device_hour = 0;
};

struct CostEstimate {
  StepCost step;          ///< of one device, communication apart
  StepCost bf16;          ///< the same in BF16
  StepCost fp8;           ///< and in reference_fp8, with the recipe's exempt layers quantised too
  ParallelCost parallel;  ///< the step of all ranks; `seconds` are those of `step` where there is one
  ParallelCost parallel_bf16;
  ParallelCost parallel_fp8;
  MemoryPlan memory;                     ///< of one rank
  std::int64_t largest_micro_batch = 0;  ///< sequences a pass that fit into the device's memory
  LayerProducts layer;                   ///< of the block in the middle, first stage
  std::int64_t layer_index = 0;
  double theoretical_cost = 1;

  double tokens_per_second = 0;  ///< of all devices
  double run_seconds = 0;
  double run_usd = 0;
  double model_flops_share = 0;  ///< of the device's BF16 (FP32) peak

  double speedup_over_bf16() const { return parallel_bf16.seconds / parallel.seconds; }
  double speedup_over_fp8() const { return parallel_fp8.seconds / parallel.seconds; }
};

CostEstimate estimate_cost(const CostQuestion& question);

/// Whether the recipe pays. `token_factor` is how many times the tokens it needs for the loss of BF16 (scaling law;
/// infinity where no number suffices), NaN where that is not known. FP8 is taken to lose nothing.
struct Worth {
  bool loss_known = false;
  bool worth_it = false;
  double time_to_equal_loss = 0;      ///< over BF16's
  double time_to_equal_loss_fp8 = 0;  ///< over FP8's
};
Worth judge_worth(const CostEstimate& estimate, double token_factor);

/// The answer to "is it worth it?" in one sentence.
std::string worth_sentence(const CostQuestion& question, const CostEstimate& estimate, double token_factor);

}  // namespace nibble
