#include "nibble/cost/communication.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>

#include "nibble/model/parameter_shapes.h"
#include "tests/cost/cost_testing.h"

namespace nibble {
namespace {

/// Two links on round figures: 100 and 10 bytes a second, 2 and 5 seconds a step.
DeviceSpec slow_device() {
  DeviceSpec device;
  device.name = "slow";
  device.node_link = {200, 0.5, 2};
  device.network_link = {20, 0.5, 5};
  return device;
}

Recipe bf16() { return unquantised_recipe(ElementFormat::BF16); }
GradientFormat f32() { return GradientFormat::F32; }

PieceBytes sum_of(const std::vector<PieceBytes>& pieces) {
  PieceBytes sum;
  for (const PieceBytes& p : pieces) {
    sum.gradients += p.gradients;
    sum.amax += p.amax;
    sum.parameters += p.parameters;
    sum.forward_weights += p.forward_weights;
    sum.backward_weights += p.backward_weights;
    sum.bf16_weights += p.bf16_weights;
  }
  return sum;
}

TEST(Collective, OneRankSendsNothingOverNoLink) {
  const DeviceSpec without_links = device("h100-sxm");
  for (const auto operation : {reduce_scatter, all_gather, all_reduce, all_to_all}) {
    const Collective c = operation(1e9, {1, 1}, DeviceSpec{});
    EXPECT_EQ(c.sent.total(), 0);
    EXPECT_EQ(c.seconds, 0);
    EXPECT_EQ(operation(0, {8, 4}, without_links).seconds, 0);
  }
}

TEST(Collective, TwoRanksSendHalfAndEightSevenEighths) {
  const DeviceSpec d = slow_device();
  const Collective two = reduce_scatter(800, {2, 1}, d);
  EXPECT_EQ(two.sent.node, 400);
  EXPECT_EQ(two.sent.network, 0);
  EXPECT_EQ(two.seconds, 2 + 400 / 100.0);
  const Collective eight = all_gather(800, {8, 1}, d);
  EXPECT_EQ(eight.sent.node, 700);
  EXPECT_EQ(eight.seconds, 7 * 2 + 700 / 100.0);
  const Collective exchanged = all_to_all(800, {8, 1}, d);
  EXPECT_EQ(exchanged.sent.node, 700);
  EXPECT_EQ(exchanged.seconds, eight.seconds);
}

TEST(Collective, NodesPassSumsOnOnceButExchangeEachRanksOwn) {
  const DeviceSpec d = slow_device();
  // Four ranks in two nodes: halves to the neighbour, a quarter of everything to the other node.
  const Collective ring = reduce_scatter(800, {2, 2}, d);
  EXPECT_EQ(ring.sent.node, 400);
  EXPECT_EQ(ring.sent.network, 200);
  EXPECT_EQ(ring.seconds, 2 * 2 + 1 * 5 + std::max(400 / 100.0, 200 / 10.0));
  // A quarter to the neighbour, a quarter to either rank of the other node.
  const Collective exchange = all_to_all(800, {2, 2}, d);
  EXPECT_EQ(exchange.sent.node, 200);
  EXPECT_EQ(exchange.sent.network, 400);
  EXPECT_EQ(exchange.seconds, 1 * 2 + 2 * 5 + 400 / 10.0);
}

TEST(Collective, AllReduceTakesATreeWhereARingHasTooManySteps) {
  const DeviceSpec d = slow_device();
  // Two nodes: a ring's 3 steps last 2 x 2 + 5 = 9, a tree's way up 2 + 5 = 7.
  EXPECT_EQ(all_reduce(800, {2, 2}, d).seconds, 2 * 7 + std::max(800 / 100.0, 400 / 10.0));
  EXPECT_EQ(all_reduce(800, {2, 2}, d).sent.total(), 2 * 600);
  EXPECT_EQ(all_reduce(0.001, {1, 8}, d).seconds, 2 * 3 * 5 + 2 * 0.001 * 7 / 8 / 10);
  // One node has no more than the chain of its GPUs.
  EXPECT_EQ(all_reduce(800, {4, 1}, d).seconds, 2 * reduce_scatter(800, {4, 1}, d).seconds);
}

RC_GTEST_PROP(Collective, EveryRankSendsRMinusOneOfRParts, ()) {
  const Cluster cluster = {*rc::gen::inRange<std::int64_t>(1, 17), *rc::gen::inRange<std::int64_t>(1, 65)};
  const double bytes = *rc::gen::inRange(1, 1'000'000);
  const auto ranks = static_cast<double>(cluster.ranks());
  const double expected = bytes * (ranks - 1) / ranks;
  const DeviceSpec d = slow_device();
  for (const auto operation : {reduce_scatter, all_gather, all_to_all}) {
    const Collective c = operation(bytes, cluster, d);
    RC_ASSERT(std::abs(c.sent.total() - expected) <= 1e-9 * expected);
    // More bytes take longer.
    RC_ASSERT(cluster.ranks() == 1 || operation(2 * bytes, cluster, d).seconds > c.seconds);
  }
  RC_ASSERT(std::abs(all_reduce(bytes, cluster, d).sent.total() - 2 * expected) <= 2e-9 * expected);
}

TEST(Pieces, CoverEveryParameterOnce) {
  LlamaConfig model = model_1b();
  for (const bool tied : {false, true}) {
    for (const bool qwen : {false, true}) {
      model.tied_head = tied;
      model.qkv_bias = model.qk_norm = qwen;
      const auto pieces = exchanged_pieces(model, bf16(), optimizer_layout("adamw"), f32(), {}, 2);
      ASSERT_EQ(pieces.size(), 26u);
      EXPECT_EQ(sum_of(pieces).gradients, 4.0 * static_cast<double>(model.parameters()));
      EXPECT_EQ(sum_of(pieces).parameters, 4.0 * static_cast<double>(model.parameters()));
    }
  }
}

TEST(Pieces, GradientsOfMatricesTravelInTheirFormatAndVectorsInF32) {
  const LlamaConfig model = model_1b();
  double vectors = 0;
  double matrices = 0;
  double tensors = 0;
  for (const ParameterShape& p : parameter_shapes(model)) {
    const auto n =
        static_cast<double>(std::accumulate(p.shape.begin(), p.shape.end(), std::int64_t{1}, std::multiplies<>()));
    (p.shape.size() == 1 ? vectors : matrices) += n;
    tensors += p.shape.size() == 1 ? 0 : 1;
  }
  const auto sum = [&](GradientFormat format, const char* stored) {
    return sum_of(exchanged_pieces(model, bf16(), optimizer_layout("adamw", stored), format, {}, 2));
  };
  EXPECT_EQ(sum(GradientFormat::BF16, "bf16").gradients, 2 * matrices + 4 * vectors);
  EXPECT_EQ(sum(GradientFormat::FP8, "f32").gradients, matrices + 4 * vectors);
  EXPECT_EQ(sum(GradientFormat::FP8, "f32").amax, 4 * tensors);
  EXPECT_EQ(sum(GradientFormat::BF16, "bf16").amax, 0);
  // The bar of FP8 gradients.
  EXPECT_LT(sum(GradientFormat::FP8, "f32").gradients / sum(GradientFormat::BF16, "bf16").gradients, 0.52);
}

TEST(Pieces, ValuesTravelAsWideAsTheyAreStored) {
  const LlamaConfig model = model_1b();
  double linears = 0;
  for (const LinearShape& shape : block_linears(model)) linears += static_cast<double>(model.layers) * shape.weights();
  const auto others = static_cast<double>(model.parameters()) - linears;
  const auto pieces = exchanged_pieces(model, bf16(), optimizer_layout("adamw-fp8"), f32(), {}, 2);
  // FP16 in linear layers; elsewhere the F32 values, not the FP16 masters beside them.
  EXPECT_EQ(sum_of(pieces).parameters, 2 * linears + 4 * others);
}

// ---- ZeRO-3: what is gathered ----

const LinearShape kShape{"mlp.down", 512, 1024};
constexpr double kWeights = 512 * 1024;

TEST(GatheredWeight, IsCodesAndScalesWhereTheRecipeQuantisesIt) {
  const WeightBytes nv = gathered_weight(block_recipe(nvfp4).base(), kShape, 2);
  EXPECT_DOUBLE_EQ(nv.forward, 0.5625 * kWeights);
  EXPECT_DOUBLE_EQ(nv.backward, 0.5625 * kWeights);
  const WeightBytes mx = gathered_weight(block_recipe(mxfp4).base(), kShape, 2);
  EXPECT_DOUBLE_EQ(mx.forward, 0.53125 * kWeights);
  const WeightBytes rows = gathered_weight(vector_recipe().base(), kShape, 2);
  EXPECT_DOUBLE_EQ(rows.forward, 0.5 * kWeights + 4 * 512);  // an F32 scale a row
  EXPECT_DOUBLE_EQ(rows.backward, rows.forward);
  EXPECT_DOUBLE_EQ(gathered_weight(reference_fp8().base(), kShape, 2).forward, kWeights);
}

TEST(GatheredWeight, IsOfMoreBytesWhereTheLayerIsExemptOrReadsWItself) {
  EXPECT_EQ(gathered_weight(bf16().base(), kShape, 2).forward, 2 * kWeights);
  EXPECT_EQ(gathered_weight(bf16().base(), kShape, 2).backward, 2 * kWeights);
  Recipe dge = block_recipe(mxfp4);
  linear_of(dge).weight_gradient.estimator = WeightGradient::Estimator::Dge;
  EXPECT_EQ(gathered_weight(dge.base(), kShape, 2).forward, 0.53125 * kWeights);
  EXPECT_EQ(gathered_weight(dge.base(), kShape, 2).backward, 4 * kWeights);
  linear_of(dge)[Operand::FpropW].quant.bf16_input = true;
  linear_of(dge)[Operand::DgradW].quant.bf16_input = true;
  EXPECT_EQ(gathered_weight(dge.base(), kShape, 2).backward, 2 * kWeights);
  Recipe residual = block_recipe(mxfp4);
  Clamp& clamp = linear_of(residual)[Operand::FpropX].quant.clamp;
  clamp.alpha = 0.99;
  clamp.residual = ResidualMode::Sparse;
  ASSERT_GT(residual_density(residual.base()), 0);
  EXPECT_EQ(gathered_weight(residual.base(), kShape, 2).forward, (2 + 0.53125) * kWeights);
  EXPECT_EQ(gathered_weight(residual.base(), kShape, 2).backward, 0.53125 * kWeights);
}

TEST(GatheredWeight, BringsOutlierChannelsAlong) {
  Recipe recipe = vector_recipe();
  OutlierChannels& o = linear_of(recipe).outlier_channels;
  o.share = 0.1;
  o.multiple = 128;
  o.quant = e2m1_rows();
  o.quant.element = ElementFormat::E4M3;
  const WeightBytes w = gathered_weight(recipe.base(), kShape, 2);
  const double columns = 128;  // of 102.4
  EXPECT_DOUBLE_EQ(w.forward, 0.5 * kWeights + 4 * 512 + columns * 512 + 4 * 512);
  EXPECT_DOUBLE_EQ(w.backward, w.forward);  // dgrad reads what fprop quantised
  EXPECT_DOUBLE_EQ(w.both, w.forward);
}

TEST(GatheredWeight, CountsExemptLayersOfARecipeOneByOne) {
  const LlamaConfig model = model_1b();
  Recipe recipe = block_recipe(nvfp4);
  recipe.exempt_first_blocks = 1;
  recipe.high_precision = bf16().base();
  const auto pieces = exchanged_pieces(model, recipe, optimizer_layout("adamw"), f32(), {}, 2);
  double block = 0;
  for (const LinearShape& shape : block_linears(model)) block += shape.weights();
  EXPECT_DOUBLE_EQ(pieces[1].forward_weights, 2 * block);
  EXPECT_DOUBLE_EQ(pieces[2].forward_weights, 0.5625 * block);
  EXPECT_DOUBLE_EQ(pieces[2].backward_weights, 0.5625 * block);
  EXPECT_DOUBLE_EQ(pieces[2].bf16_weights, 4 * block);
  EXPECT_DOUBLE_EQ(pieces[24].forward_weights, 2 * 0.5625 * block);  // stays for the backward, which has other codes
  EXPECT_DOUBLE_EQ(pieces[24].backward_weights, 0);
  EXPECT_DOUBLE_EQ(pieces[24].bf16_weights, 2 * block);
  EXPECT_DOUBLE_EQ(pieces.front().forward_weights, 4.0 * 32000 * 2048);  // embedding rows are read in F32
  EXPECT_DOUBLE_EQ(pieces.back().forward_weights, 2.0 * 32000 * 2048);
  EXPECT_EQ(pieces.back().backward_weights, 0);
}

TEST(Links, AreReadFromTheDeviceFileAndMayBeAbsent) {
  const DeviceSpec h100 = device("h100-sxm");
  EXPECT_EQ(h100.node_link.bandwidth, 450e9);
  EXPECT_EQ(h100.network_link.bandwidth, 50e9);
  EXPECT_GT(h100.network_link.latency, h100.node_link.latency);
  for (const char* name : {"h200", "b200", "b300", "rtx-5090", "rtx-pro-6000"}) {
    EXPECT_TRUE(device(name).has_links()) << name;
  }
  EXPECT_FALSE(cpu_device({}, 1e10, 1e10).has_links());
}

}  // namespace
}  // namespace nibble
