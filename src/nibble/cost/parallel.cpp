#include "nibble/cost/parallel.h"

#include "nibble/cost/overlap.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// Pieces' gradients that ZeRO-2 and 3 have room for: one is written while the other travels.
constexpr std::size_t kBuckets = 2;

/// The operations of one piece.
struct PieceExchange {
  Collective gradients;
  Collective amax;
  Collective parameters;
  Collective forward;
  Collective backward;
  double bf16_weights = 0;
  double reduce() const { return amax.seconds + gradients.seconds; }
};

PieceExchange exchange(const PieceBytes& bytes, const DeviceSpec& device, const Parallel& p) {
  PieceExchange e;
  if (p.gradients == GradientFormat::FP8) {
    e.amax = all_reduce(bytes.amax, p.cluster, device);
    e.gradients = all_to_all(bytes.gradients, p.cluster, device);
    if (p.zero == 0) e.gradients += all_gather(bytes.sums, p.cluster, device);
  } else {
    e.gradients = p.zero == 0 ? all_reduce(bytes.gradients, p.cluster, device)
                              : reduce_scatter(bytes.gradients, p.cluster, device);
  }
  if (p.zero == 1 || p.zero == 2) e.parameters = all_gather(bytes.parameters, p.cluster, device);
  if (p.zero == 3) {
    e.forward = all_gather(bytes.forward_weights, p.cluster, device);
    e.backward = all_gather(bytes.backward_weights, p.cluster, device);
    e.bf16_weights = all_gather(bytes.bf16_weights, p.cluster, device).sent.total();
  }
  return e;
}

}  // namespace

SentBytes ParallelCost::sent() const {
  SentBytes sum = gradients;
  sum += amax;
  sum += parameters;
  sum += weights;
  return sum;
}

ParallelCost parallel_cost(const LlamaConfig& model, const Recipe& recipe, const DeviceSpec& device, const Batch& batch,
                           const OptimizerLayout& optimizer, const CostAssumptions& assumptions,
                           const Parallel& parallel, const StepCost& step) {
  require(parallel.zero >= 0 && parallel.zero <= 3, "ZeRO level {}", parallel.zero);
  ParallelCost cost;
  cost.seconds = step.seconds;
  if (parallel.cluster.ranks() == 1) return cost;

  std::vector<PieceExchange> pieces;
  for (const PieceBytes& bytes :
       exchanged_pieces(model, recipe, optimizer, parallel.gradients, assumptions, parallel.cluster.ranks())) {
    pieces.push_back(exchange(bytes, device, parallel));
  }
  const PieceExchange& embedding = pieces.front();
  const PieceExchange& head = pieces.back();
  const auto blocks = static_cast<std::size_t>(model.layers);

  const StepPhases& phases = step.phases;
  const double gaps = step.seconds / phases.sum();
  const auto passes = static_cast<std::int64_t>(batch.passes());
  const double once = gaps / static_cast<double>(passes);
  std::vector<Piece> run;
  for (std::int64_t pass = 1; pass <= passes; ++pass) {
    const bool reduces = parallel.zero >= 2 || pass == passes;
    const auto reduce = [&](const PieceExchange& piece) { return reduces ? piece.reduce() : 0; };
    const bool gathers_tables = pass == 1;
    run.push_back({once * phases.embedding_forward, gathers_tables ? embedding.forward.seconds : 0, 0});
    for (std::size_t b = 0; b < blocks; ++b)
      run.push_back({once * phases.forward[b], pieces[1 + b].forward.seconds, 0});
    run.push_back({once * phases.head, gathers_tables ? head.forward.seconds : 0, reduce(head)});
    for (std::size_t b = blocks; b-- > 0;) {
      run.push_back({once * phases.backward[b], pieces[1 + b].backward.seconds, reduce(pieces[1 + b])});
    }
    run.push_back({once * phases.embedding_backward, embedding.backward.seconds, reduce(embedding)});
  }
  const Timeline line = overlap(run, parallel.zero >= 2 ? kBuckets : 0);

  const double reductions = parallel.zero >= 2 ? static_cast<double>(passes) : 1;
  double parameters = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const PieceExchange& piece = pieces[i];
    const bool is_block = i > 0 && i + 1 < pieces.size();
    const double gathers = is_block ? static_cast<double>(passes) : 1;
    cost.gradients += piece.gradients.sent * reductions;
    cost.amax += piece.amax.sent * reductions;
    cost.parameters += piece.parameters.sent;
    cost.weights += piece.forward.sent * gathers;
    cost.weights += piece.backward.sent * gathers;
    cost.bf16_weights += piece.bf16_weights * gathers;
    parameters += piece.parameters.seconds;
  }
  const Sharding sharding = parallel.sharding();
  cost.communication = line.communication + parameters;
  cost.exposed = line.exposed() + parameters;
  cost.seconds =
      gaps * (sharding.share(3) * phases.weights + sharding.share(1) * phases.optimizer) + line.seconds + parameters;
  return cost;
}

}  // namespace nibble
