// The step of a data-parallel run on many GPUs, and how its speed grows with their number.
#pragma once

#include "nibble/cost/communication.h"
#include "nibble/model/memory.h"

namespace nibble {

/// How a run is spread. One rank is the run without any of it.
struct Parallel {
  Cluster cluster;
  int zero = 0;  ///< ZeRO level, 0 to 3
  GradientFormat gradients = GradientFormat::F32;
  Sharding sharding() const { return {cluster.ranks(), zero, gradient_format_bytes(gradients)}; }
};

/// What one rank sends and waits for in a step of `passes` passes:
///
///   level   gradients (a piece leaves when its backward has ended)     weights
///   0       all_reduce in the last pass; FP8: all_to_all of codes      -
///           and all_gather of the sums in BF16
///   1       reduce_scatter in the last pass; FP8: all_to_all           all_gather after the update, exposed
///   2       the same in every pass, two pieces' gradients at a time    the same
///   3       as 2                                                       all_gather one piece ahead, of a block twice
///                                                                      a pass, of the last one and tables once
///
/// FP8: before it an all_reduce of the amax. With S_i the times of a device alone (StepPhases, gaps in proportion):
///
///   seconds = weights [/ R for 3] + overlap(embedding, blocks, head, blocks backward, embedding; each pass) +
///             optimizer [/ R for 1, 2, 3] + gather of parameters [1, 2]
struct ParallelCost {
  SentBytes gradients;       ///< sums of FP8 gradients included
  SentBytes amax;            ///< of FP8 gradients
  SentBytes parameters;      ///< after the update, levels 1 and 2
  SentBytes weights;         ///< gathered for passes, level 3
  double bf16_weights = 0;   ///< what `weights` would be were they BF16
  double communication = 0;  ///< seconds of all operations
  double exposed = 0;        ///< seconds of them that computation waits for
  double seconds = 0;        ///< the step
  SentBytes sent() const;
};

/// With one rank nothing is sent, and the step takes what `step` says.
ParallelCost parallel_cost(const LlamaConfig& model, const Recipe& recipe, const DeviceSpec& device, const Batch& batch,
                           const OptimizerLayout& optimizer, const CostAssumptions& assumptions,
                           const Parallel& parallel, const StepCost& step);

}  // namespace nibble
