#include "nibble/cost/estimate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cost/cost_testing.h"

namespace nibble {
namespace {

CostQuestion question(const Recipe& recipe, const char* on) {
  CostQuestion q;
  q.model = model_1b();
  q.recipe = recipe;
  q.device = device(on);
  q.batch = default_batch(q.model.seq);
  q.optimizer = optimizer_layout("adamw");
  q.tokens = 1e11;
  q.usd_per_device_hour = 2;
  return q;
}

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

TEST(Estimate, TimeAndMoneyGrowInProportionToTheTokens) {
  CostQuestion q = question(block_recipe(mxfp4), "b200");
  const CostEstimate once = estimate_cost(q);
  q.tokens *= 3;
  const CostEstimate thrice = estimate_cost(q);
  EXPECT_NEAR(thrice.run_seconds / once.run_seconds, 3, 1e-12);
  EXPECT_NEAR(thrice.run_usd / once.run_usd, 3, 1e-12);
  EXPECT_NEAR(once.run_usd, once.run_seconds / 3600 * 2, 1e-9);
}

TEST(Estimate, MoreDevicesTakeLessTimeForTheSameMoney) {
  CostQuestion q = question(block_recipe(mxfp4), "b200");
  const CostEstimate one = estimate_cost(q);
  q.devices = 8;
  const CostEstimate eight = estimate_cost(q);
  EXPECT_NEAR(eight.run_seconds * 8, one.run_seconds, 1e-6 * one.run_seconds);
  EXPECT_NEAR(eight.run_usd, one.run_usd, 1e-6 * one.run_usd);
}

TEST(Estimate, Bf16IsNeverWorthMoreThanItself) {
  const CostEstimate e = estimate_cost(question(unquantised_recipe(ElementFormat::BF16), "h100-sxm"));
  EXPECT_EQ(e.speedup_over_bf16(), 1);
  EXPECT_EQ(e.theoretical_cost, 1);
  EXPECT_FALSE(judge_worth(e, 1).worth_it);
}

TEST(Worth, DependsOnTheTokensThatTheLossCosts) {
  const CostQuestion q = question(block_recipe(mxfp4), "b200");
  const CostEstimate e = estimate_cost(q);
  EXPECT_TRUE(judge_worth(e, 1.0).worth_it);
  const double break_even = std::min(e.speedup_over_bf16(), e.speedup_over_fp8());
  EXPECT_TRUE(judge_worth(e, 0.999 * break_even).worth_it);
  EXPECT_FALSE(judge_worth(e, 1.001 * break_even).worth_it);
  EXPECT_FALSE(judge_worth(e, std::numeric_limits<double>::infinity()).worth_it);
  EXPECT_FALSE(judge_worth(e, kUnknown).loss_known);
}

TEST(Worth, IsOneSentenceThatNamesTheDevice) {
  const CostQuestion q = question(block_recipe(mxfp4), "b200");
  const CostEstimate e = estimate_cost(q);
  for (const double factor : {1.0, 50.0, kUnknown, std::numeric_limits<double>::infinity()}) {
    const std::string text = worth_sentence(q, e, factor);
    EXPECT_EQ(text.find('\n'), std::string::npos);
    EXPECT_EQ(text.back(), '.');
    EXPECT_NE(text.find("B200"), std::string::npos) << text;
  }
  EXPECT_NE(worth_sentence(q, e, 50).find("not worth it"), std::string::npos);
}

TEST(Worth, SaysWhenTheRunExceedsTheMemory) {
  CostQuestion q = question(block_recipe(mxfp4), "rtx-5090");
  EXPECT_EQ(worth_sentence(q, estimate_cost(q), 1).find("exceeds") == std::string::npos,
            estimate_cost(q).memory.total() <= q.device.memory_bytes);
  q.batch = {512, 512, 2048};
  EXPECT_NE(worth_sentence(q, estimate_cost(q), 1).find("whose memory it exceeds"), std::string::npos);
}

TEST(Worth, VectorWiseFp4OnAnH100IsAtMostAsFastAsItsFp8) {
  // FP4 codes run on the FP8 units there: only what is saved in quantising differs.
  const CostEstimate e = estimate_cost(question(vector_recipe(), "h100-sxm"));
  EXPECT_GT(e.speedup_over_bf16(), 1);
  EXPECT_NEAR(e.speedup_over_fp8(), 1, 0.1);
}

}  // namespace
}  // namespace nibble
