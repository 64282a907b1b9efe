#include "nibble/cost/parallel.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "nibble/cost/overlap.h"
#include "nibble/cost/scaling_curve.h"
#include "tests/cost/cost_testing.h"

namespace nibble {
namespace {

CostQuestion question(const Recipe& recipe, Parallel parallel = {}, const char* on = "h100-sxm") {
  CostQuestion q;
  q.model = model_1b();
  q.recipe = recipe;
  q.device = device(on);
  q.batch = default_batch(q.model.seq);
  q.optimizer = optimizer_layout("adamw");
  q.parallel = parallel;
  q.devices = static_cast<double>(parallel.cluster.ranks());
  q.tokens = 1e9;
  return q;
}

ParallelCost cost_of(const Recipe& recipe, const Parallel& parallel) {
  return estimate_cost(question(recipe, parallel)).parallel;
}

// ---- overlap ----

TEST(Overlap, OfNothingIsTheComputation) {
  const Timeline line = overlap({{3, 0, 0}, {4, 0, 0}}, 0);
  EXPECT_EQ(line.seconds, 7);
  EXPECT_EQ(line.exposed(), 0);
  EXPECT_EQ(overlap({}, 2).seconds, 0);
}

TEST(Overlap, HidesReductionsBehindThePiecesThatFollow) {
  // Head 0-2, block 1 2-5, block 0 5-8, embedding 8-9. Link: head 2-6, block 1 6-10, block 0 10-14, embedding 14-15.
  const Timeline line = overlap({{2, 0, 4}, {3, 0, 4}, {3, 0, 4}, {1, 0, 1}}, 0);
  EXPECT_EQ(line.compute, 9);
  EXPECT_EQ(line.communication, 13);
  EXPECT_EQ(line.seconds, 15);
  EXPECT_EQ(line.exposed(), 6);
  // Only the last reduction is seen where each fits behind a block.
  EXPECT_EQ(overlap({{2, 0, 2}, {3, 0, 2}, {3, 0, 2}, {1, 0, 1}}, 0).exposed(), 2);
}

TEST(Overlap, WaitsForRoomForGradients) {
  // With room for one piece, piece k begins when piece k-1 has been sent: 0-2, sent 6; 6-9, sent 13; 13-14, sent 15.
  const std::vector<Piece> pieces = {{2, 0, 4}, {3, 0, 4}, {1, 0, 1}};
  EXPECT_EQ(overlap(pieces, 1).seconds, 15);
  // With room for two only the third waits, for the first: 0-2, 2-5, then 6-7; sent at 6, 10 and 11.
  EXPECT_EQ(overlap(pieces, 2).seconds, 11);
  EXPECT_EQ(overlap(pieces, 0).seconds, 11);
  // 0-1, 1-2, then at 11-12; sent at 11, 21 and 31.
  EXPECT_EQ(overlap({{1, 0, 10}, {1, 0, 10}, {1, 0, 10}, {5, 0, 0}}, 2).seconds, 31);
}

TEST(Overlap, GathersOnePieceAhead) {
  // Gathered 0-2; piece 0 2-5, meanwhile 2-6; piece 1 6-9, meanwhile 6-7; piece 2 9-12.
  const Timeline line = overlap({{3, 2, 0}, {3, 4, 0}, {3, 1, 0}}, 0);
  EXPECT_EQ(line.seconds, 12);
  EXPECT_EQ(line.exposed(), 3);
}

TEST(Overlap, GathersAndReductionsShareTheLink) {
  // Gather 0 0-1; piece 0 1-3, gather 1 1-2, reduce 0 3-8; piece 1 3-5, gather 2 behind the reduction 8-9, reduce 1
  // 9-14; piece 2 9-11, reduce 2 14-19.
  const Timeline line = overlap({{2, 1, 5}, {2, 1, 5}, {2, 1, 5}}, 0);
  EXPECT_EQ(line.seconds, 19);
  EXPECT_EQ(line.communication, 18);
}

RC_GTEST_PROP(Overlap, LiesBetweenTheLongerOfBothAndTheirSum, ()) {
  const auto pieces = *rc::gen::container<std::vector<Piece>>(
      rc::gen::map(rc::gen::tuple(rc::gen::inRange(0, 20), rc::gen::inRange(0, 20), rc::gen::inRange(0, 20)),
                   [](const std::tuple<int, int, int>& t) {
                     return Piece{static_cast<double>(std::get<0>(t)), static_cast<double>(std::get<1>(t)),
                                  static_cast<double>(std::get<2>(t))};
                   }));
  double fewer_buckets = 1e300;
  for (const std::size_t buckets : {1, 2, 3, 0}) {
    const Timeline line = overlap(pieces, buckets);
    RC_ASSERT(line.seconds >= std::max(line.compute, line.communication));
    RC_ASSERT(line.seconds <= line.compute + line.communication);
    RC_ASSERT(line.seconds <= fewer_buckets);  // room never slows
    fewer_buckets = line.seconds;
  }
}

// ---- a step's phases ----

TEST(Phases, AddUpToTheStepWithoutItsGaps) {
  for (const Recipe& recipe : {unquantised_recipe(ElementFormat::BF16), block_recipe(nvfp4), vector_recipe()}) {
    const CostQuestion q = question(recipe);
    const StepCost step = step_cost(q.model, recipe, q.device, q.batch, q.optimizer, {});
    EXPECT_NEAR(step.phases.sum() / (step.seconds * q.device.step_achieved), 1, 1e-9);
    EXPECT_GT(step.phases.backward[3], step.phases.forward[3]);
    EXPECT_EQ(step.phases.forward[3], step.phases.forward[20]);
  }
}

TEST(Phases, OfExemptBlocksAreTheirOwn) {
  Recipe recipe = block_recipe(mxfp4);
  recipe.exempt_first_blocks = 1;
  recipe.high_precision = unquantised_recipe(ElementFormat::BF16).base();
  const CostQuestion q = question(recipe);
  const StepPhases phases = step_cost(q.model, recipe, device("b200"), q.batch, q.optimizer, {}).phases;
  EXPECT_GT(phases.forward[0], 1.2 * phases.forward[1]);
}

// ---- the step ----

TEST(Parallel, OneRankIsTheStepItself) {
  for (const int zero : {0, 1, 2, 3}) {
    for (const GradientFormat format : {GradientFormat::F32, GradientFormat::BF16, GradientFormat::FP8}) {
      const CostEstimate plain = estimate_cost(question(block_recipe(nvfp4)));
      const CostEstimate one = estimate_cost(question(block_recipe(nvfp4), {{1, 1}, zero, format}));
      EXPECT_EQ(one.parallel.sent().total(), 0);
      EXPECT_EQ(one.parallel.communication, 0);
      EXPECT_EQ(one.parallel.exposed, 0);
      EXPECT_EQ(one.parallel.seconds, one.step.seconds);
      EXPECT_EQ(one.tokens_per_second, plain.tokens_per_second);
      EXPECT_EQ(one.memory.total(), plain.memory.total());
      EXPECT_EQ(one.largest_micro_batch, plain.largest_micro_batch);
      EXPECT_EQ(one.speedup_over_bf16(), plain.bf16.seconds / plain.step.seconds);
    }
  }
}

TEST(Parallel, SendsWhatThePlansTableSays) {
  const Recipe recipe = block_recipe(nvfp4);
  const auto n = static_cast<double>(model_1b().parameters());
  const CostQuestion q = question(recipe);
  const double passes = q.batch.passes();
  ASSERT_GT(passes, 1);
  for (const std::int64_t ranks : {2, 8}) {
    double gathered = 0;
    double in_bf16 = 0;
    const std::vector<PieceBytes> pieces =
        exchanged_pieces(q.model, recipe, q.optimizer, GradientFormat::F32, {}, ranks);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const double times = i == 0 || i + 1 == pieces.size() ? 1 : passes;  // tables once a step
      gathered += times * (pieces[i].forward_weights + pieces[i].backward_weights);
      in_bf16 += times * pieces[i].bf16_weights;
    }
    const double part = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
    const auto at = [&](int zero) { return cost_of(recipe, {{ranks, 1}, zero}); };
    EXPECT_NEAR(at(0).sent().total(), part * 2 * 4 * n, 1);
    EXPECT_NEAR(at(1).gradients.total(), part * 4 * n, 1);
    EXPECT_NEAR(at(1).parameters.total(), part * 4 * n, 1);
    EXPECT_NEAR(at(2).gradients.total(), part * 4 * n * passes, 1e3);
    EXPECT_NEAR(at(2).parameters.total(), part * 4 * n, 1);
    EXPECT_EQ(at(2).weights.total(), 0);
    EXPECT_NEAR(at(3).gradients.total(), part * 4 * n * passes, 1e3);
    EXPECT_EQ(at(3).parameters.total(), 0);
    EXPECT_NEAR(at(3).weights.total(), part * gathered, 1e3);
    EXPECT_NEAR(at(3).bf16_weights, part * in_bf16, 1e3);
    EXPECT_LT(at(3).weights.total(), 0.5 * at(3).bf16_weights);
  }
}

TEST(Parallel, Fp8GradientsAreHalfOfBf16sInANodeAndMoreBetweenNodes) {
  const Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  const auto gradients = [&](Cluster cluster, GradientFormat format) {
    const ParallelCost cost = cost_of(recipe, {cluster, 1, format});
    SentBytes sent = cost.gradients;
    sent += cost.amax;
    return sent;
  };
  EXPECT_LT(gradients({2, 1}, GradientFormat::FP8).total() / gradients({2, 1}, GradientFormat::BF16).total(), 0.52);
  // A ring passes a node's sum on, 2 bytes for all of its 8 GPUs; codes go from every GPU to every other.
  const double ratio = gradients({8, 4}, GradientFormat::FP8).network / gradients({8, 4}, GradientFormat::BF16).network;
  EXPECT_NEAR(ratio, 4, 0.01);
}

TEST(Parallel, FasterLinksNeverSlowAStepAndMoreExposesNeverLess) {
  for (const int zero : {0, 1, 2, 3}) {
    CostQuestion q = question(block_recipe(nvfp4), {{8, 16}, zero});
    q.batch = {8, 2, 2048};
    double previous = 1e300;
    double exposed = 1e300;
    for (const double gbit : {1.0, 10.0, 100.0, 400.0, 1600.0}) {
      q.device.network_link.bandwidth = gbit * 1e9 / 8;
      const CostEstimate e = estimate_cost(q);
      EXPECT_LE(e.parallel.seconds, previous);
      EXPECT_LE(e.parallel.exposed, exposed);
      EXPECT_GE(e.parallel.exposed, 0);
      EXPECT_LE(e.parallel.exposed, e.parallel.communication * (1 + 1e-12));
      previous = e.parallel.seconds;
      exposed = e.parallel.exposed;
    }
  }
}

TEST(Parallel, DividesTheOptimizersTimeFromLevelOne) {
  CostQuestion q = question(unquantised_recipe(ElementFormat::BF16), {{8, 1}, 0});
  // Links of no cost leave nothing but the division.
  q.device.node_link = {1e30, 1, 0};
  const CostEstimate none = estimate_cost(q);
  EXPECT_NEAR(none.parallel.seconds / none.step.seconds, 1, 1e-12);
  q.parallel.zero = 1;
  const CostEstimate one = estimate_cost(q);
  const double gaps = one.step.seconds / one.step.phases.sum();
  EXPECT_NEAR(one.step.seconds - one.parallel.seconds, gaps * one.step.phases.optimizer * 7 / 8, 1e-9);
}

// ---- memory ----

double part_of(const MemoryPlan& plan, const std::string& name) {
  for (const MemoryPart& part : plan.parts) {
    if (part.name == name) return part.bytes;
  }
  return 0;
}

TEST(ShardedMemory, IsTheTableOfThePlan) {
  const Recipe recipe = block_recipe(nvfp4);
  const CostQuestion q = question(recipe);
  const auto n = static_cast<double>(q.model.parameters());
  const double vectors = 49.0 * 2048;                    // gains, which all ranks have
  const double pieces = n - vectors + 2 * 256.0 * 2048;  // 8 pieces of 4032 rows of a table of 32000
  const auto plan = [&](int zero) {
    return memory_cost(q.model, recipe, q.batch, q.optimizer, q.recompute, q.device, {8, zero, 4});
  };
  for (const int zero : {0, 1, 2, 3}) {
    const MemoryPlan p = plan(zero);
    const double whole = 4 * (zero >= 1 ? pieces + vectors : n);
    const double shared = 4 * (pieces / 8 + vectors);
    EXPECT_DOUBLE_EQ(part_of(p, "weights"), zero >= 3 ? shared : whole) << zero;
    EXPECT_DOUBLE_EQ(part_of(p, "gradients"), zero >= 2 ? shared : whole) << zero;
    EXPECT_DOUBLE_EQ(part_of(p, "first moment"), zero >= 1 ? shared : whole) << zero;
    EXPECT_DOUBLE_EQ(part_of(p, "second moment"), zero >= 1 ? shared : whole) << zero;
    EXPECT_EQ(part_of(p, "saved activations"), part_of(plan(0), "saved activations"));
  }
  // Two of the larger pieces, here the tables of 32000 x 2048 against blocks of 51 M elements.
  EXPECT_EQ(part_of(plan(1), "exchange buffers"), 0);
  EXPECT_DOUBLE_EQ(part_of(plan(2), "exchange buffers"), 2 * 4.0 * 32256 * 2048);
  // Copies are gathered, the embedding in F32, and in steps that are measured W itself.
  const double table = 32256.0 * 2048;
  const double block = (5632.0 * 3 + 2048 * 4) * 2048;
  const double copies = part_of(plan(0), "working copies of the weights");
  const auto gathered = [&](GatherWeights gather) {
    Sharding sharding{8, 3, 4};
    sharding.gather = gather;
    return part_of(memory_cost(q.model, recipe, q.batch, q.optimizer, q.recompute, q.device, sharding),
                   "working copies of the weights");
  };
  const double of_all = gathered(GatherWeights::Step);
  EXPECT_GT(of_all, copies + 4 * table);
  EXPECT_LE(of_all, copies + 4 * table + 2 * 256.0 * 2048 + 4.5 * 24 * block);
  // Beside the tables and, twice in F32, an eighth of W's rows, which outlive the passes: two of 24 blocks, of which
  // only the last one has both operands' codes, and each with what quantising a layer takes meanwhile.
  const double stay = 6 * table + 24 * block;
  const double of_two = 2.0 / 24 * (of_all - stay);
  EXPECT_LE(gathered(GatherWeights::Block) - stay, 1.2 * of_two);
  EXPECT_GE(gathered(GatherWeights::Block) - stay, 0.9 * of_two);
}

TEST(ShardedMemory, CountsBuffersOfTheFormatThatTravels) {
  const CostQuestion q = question(unquantised_recipe(ElementFormat::BF16));
  // Of three buckets in turn: head or a block, a block, and, 26 buckets in all, embedding or a block.
  const double block = (5632.0 * 3 + 2048 * 4) * 2048;
  const double table = 32256.0 * 2048;
  const double turns = table + block + table;
  const auto buffers = [&](int zero, double travelling) {
    return part_of(memory_cost(q.model, q.recipe, q.batch, q.optimizer, q.recompute, q.device, {8, zero, travelling}),
                   "exchange buffers");
  };
  EXPECT_DOUBLE_EQ(buffers(1, 2), 2 * turns);
  EXPECT_DOUBLE_EQ(buffers(1, 1), 2 * turns);  // codes that leave and codes that arrive
  EXPECT_DOUBLE_EQ(buffers(2, 1), 2 * 4 * table + 2 * turns);
}

TEST(ShardedMemory, NeverGrowsWithRanksOrLevelBeyondItsBuffers) {
  const Recipe recipe = block_recipe(nvfp4);
  const CostQuestion q = question(recipe);
  for (const int zero : {0, 1, 2, 3}) {
    double previous = 1e300;
    for (const std::int64_t ranks : {2, 4, 64, 16384}) {
      const double total =
          memory_cost(q.model, recipe, q.batch, q.optimizer, q.recompute, q.device, {ranks, zero, 4}).total();
      EXPECT_LE(total, previous * (zero > 0 ? 1.02 : 1)) << zero;  // smaller pieces waste a little more
      previous = total;
    }
  }
}

// ---- curves ----

TEST(ScalingCurve, WeakHoldsEachGpusBatchAndLosesEfficiencyOnlyByCommunication) {
  CostQuestion q = question(block_recipe(nvfp4), {{8, 1}, 0});
  q.batch = {8, 8, 2048};
  const ScalingCurve curve = scaling_curve(q, Scaling::Weak, 16384);
  ASSERT_EQ(curve.rows.size(), 15u);
  EXPECT_TRUE(curve.ended.empty());
  EXPECT_EQ(curve.rows.front().efficiency, 1);
  for (std::size_t i = 1; i < curve.rows.size(); ++i) {
    const ScalingRow& row = curve.rows[i];
    EXPECT_EQ(row.cluster.ranks(), std::int64_t{1} << i);
    EXPECT_EQ(row.cluster.gpus, std::min<std::int64_t>(8, row.cluster.ranks()));
    EXPECT_EQ(row.batch.sequences, 8);
    EXPECT_LE(row.efficiency, curve.rows[i - 1].efficiency * (1 + 1e-12));
    EXPECT_GT(row.tokens_per_second, curve.rows[i - 1].tokens_per_second);
  }
  // Level 0 leaves all work to all: what is lost is what is exposed.
  const ScalingRow& last = curve.rows.back();
  EXPECT_NEAR(last.efficiency, 1 - last.cost.exposed / last.cost.seconds, 1e-9);
}

TEST(ScalingCurve, StrongHoldsTheGlobalBatchAndEndsWithItsMicroBatches) {
  CostQuestion q = question(block_recipe(nvfp4), {{8, 1}, 1});
  q.batch = {96, 4, 2048};
  const ScalingCurve curve = scaling_curve(q, Scaling::Strong, 16384);
  ASSERT_EQ(curve.rows.size(), 4u);  // 24 micro-batches: 1, 2, 4, 8
  for (const ScalingRow& row : curve.rows) EXPECT_EQ(row.batch.sequences * row.cluster.ranks(), 96);
  EXPECT_NE(curve.ended.find("does not divide by 16 GPUs"), std::string::npos) << curve.ended;
  q.batch = {32, 4, 2048};
  EXPECT_NE(scaling_curve(q, Scaling::Strong, 16384).ended.find("8 micro-batches of 4, fewer than 16"),
            std::string::npos);
}

TEST(ScalingCurve, RowsAreTheEstimatesOfTheirClusters) {
  CostQuestion q = question(vector_recipe(), {{4, 1}, 3, GradientFormat::FP8});
  q.batch = {16, 4, 2048};
  const ScalingCurve curve = scaling_curve(q, Scaling::Weak, 16);
  q.parallel.cluster = {4, 4};
  q.devices = 16;
  const CostEstimate e = estimate_cost(q);
  EXPECT_EQ(curve.rows.back().tokens_per_second, e.tokens_per_second);
  EXPECT_EQ(curve.rows.back().memory_bytes, e.memory.total());
  EXPECT_EQ(curve.rows.back().cost.sent().total(), e.parallel.sent().total());
}

}  // namespace
}  // namespace nibble
