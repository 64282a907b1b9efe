#include "nibble/cost/scaling_curve.h"

#include <algorithm>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Why `ranks` cannot share the batch; empty: they can.
std::string obstacle(const Batch& batch, std::int64_t ranks) {
  const std::int64_t micro_batches = batch.sequences / batch.micro_sequences;
  if (ranks > micro_batches) {
    return fmt::format("a batch of {} sequences has {} micro-batches of {}, fewer than {} GPUs", batch.sequences,
                       micro_batches, batch.micro_sequences, ranks);
  }
  if (micro_batches % ranks != 0) {
    return fmt::format("a batch of {} sequences, {} micro-batches of {}, does not divide by {} GPUs", batch.sequences,
                       micro_batches, batch.micro_sequences, ranks);
  }
  return {};
}

}  // namespace

Batch share_of_batch(const Batch& batch, std::int64_t ranks) {
  const std::string why = obstacle(batch, ranks);
  if (!why.empty()) user_error("{}: change --batch or --micro-batch", why);
  Batch share = batch;
  share.sequences /= ranks;
  return share;
}

ScalingCurve scaling_curve(const CostQuestion& question, Scaling scaling, std::int64_t most) {
  const std::int64_t gpus = question.parallel.cluster.gpus;
  require((gpus & (gpus - 1)) == 0, "{} GPUs a node are no power of two", gpus);
  ScalingCurve curve;
  for (std::int64_t ranks = 1; ranks <= most; ranks *= 2) {
    CostQuestion q = question;
    q.parallel.cluster = {std::min(ranks, gpus), std::max<std::int64_t>(1, ranks / gpus)};
    if (scaling == Scaling::Strong) {
      curve.ended = obstacle(question.batch, ranks);
      if (!curve.ended.empty()) break;
      q.batch = share_of_batch(question.batch, ranks);
    }
    ScalingRow row;
    row.cluster = q.parallel.cluster;
    row.batch = q.batch;
    const StepCost step = step_cost(q.model, q.recipe, q.device, q.batch, q.optimizer, q.assumptions);
    row.cost = parallel_cost(q.model, q.recipe, q.device, q.batch, q.optimizer, q.assumptions, q.parallel, step);
    row.tokens_per_second = static_cast<double>(ranks) * q.batch.tokens() / row.cost.seconds;
    const double alone = curve.rows.empty() ? row.tokens_per_second : curve.rows.front().tokens_per_second;
    row.efficiency = row.tokens_per_second / (static_cast<double>(ranks) * alone);
    row.memory_bytes =
        memory_cost(q.model, q.recipe, q.batch, q.optimizer, q.recompute, q.device, q.parallel.sharding()).total();
    curve.rows.push_back(row);
  }
  return curve;
}

}  // namespace nibble
