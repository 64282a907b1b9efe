// Weak and strong scaling: the same run on 1, 2, 4, ... GPUs.
#pragma once

#include <string>

#include "nibble/cost/estimate.h"

namespace nibble {

enum class Scaling : std::uint8_t {
  Weak,    ///< every GPU has the question's batch
  Strong,  ///< all GPUs together have it
};

struct ScalingRow {
  Cluster cluster;
  Batch batch;  ///< of one GPU
  double tokens_per_second = 0;
  double efficiency = 0;  ///< tokens_per_second over ranks times those of one GPU with the question's batch
  ParallelCost cost;
  double memory_bytes = 0;  ///< of one rank
};

struct ScalingCurve {
  std::vector<ScalingRow> rows;
  std::string ended;  ///< why it ends before `most`; empty: it does not
};

/// From 1 GPU to `most`, nodes being filled before there are several: the question's `parallel.cluster.gpus` a node, a
/// power of two. A strong curve ends where the step's micro-batches cannot be dealt out evenly.
ScalingCurve scaling_curve(const CostQuestion& question, Scaling scaling, std::int64_t most);

/// The batch of one of `ranks` that share `batch`. UserError in one sentence where there are fewer micro-batches than
/// ranks, or their number does not divide.
Batch share_of_batch(const Batch& batch, std::int64_t ranks);

}  // namespace nibble
