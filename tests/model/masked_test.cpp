// Losses and gradients of batches in which few targets count.
#include <gtest/gtest.h>

#include <string>

#include "tests/model/llama_oracle.h"
#include "tests/model/masked_loss.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::bytes_of;
using testing_support::masked_batch;
using testing_support::MaskedBatch;

LlamaConfig tiny() {
  LlamaConfig c;
  c.layers = 2;
  c.width = 12;
  c.heads = 2;
  c.kv_heads = 1;
  c.ffn = 10;
  c.vocab = 17;
  c.seq = 9;
  c.init_std = 0.3;
  return c;
}

TEST(MaskedLoss, TheMeanOverTheWholeBatchsCountedTargetsIsWhatItsMicroBatchesAddUpTo) {
  const LlamaConfig c = tiny();
  Llama model(c, unquantised_recipe(ElementFormat::F32), 5, DType::F32);
  model.prepare(1, false);
  MaskedBatch b = masked_batch(c, 4, 31, true);  // the last micro-batch is half context
  const std::int64_t counted = b.counted();
  BatchLoss loss;
  for (std::int64_t s = 0; s < 4; s += 2) {
    const BatchLoss part = model.forward_backward(b.of(s, s + 2), 1.0 / static_cast<double>(counted), 1, s * c.seq,
                                                  s == 0, false, 4 * c.seq);
    loss.sum += part.sum;
    loss.tokens += part.tokens;
  }
  LlamaOracle oracle(model);
  EXPECT_EQ(loss.tokens, counted);
  EXPECT_NEAR(loss.mean(), oracle.loss(b.tokens, b.targets, 4), 1e-5);
  EXPECT_NEAR(model.evaluate(b.batch()).mean(), oracle.loss(b.tokens, b.targets, 4), 1e-5);

  expect_central_differences(model.flat_grads(), oracle, b.tokens, b.targets, 4);
}

struct Result {
  double loss;
  std::int64_t counted;
  std::vector<unsigned char> gradient;
  friend bool operator==(const Result&, const Result&) = default;
};

Result pass(MaskedBatch b, const std::string& recipe) {
  const bool f32 = recipe == "f32";
  Llama model(tiny(),
              f32 ? unquantised_recipe(ElementFormat::F32)
                  : load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/" + recipe + ".toml"),
              5, f32 ? DType::F32 : DType::BF16);
  model.prepare(1, false);
  const BatchLoss loss = model.forward_backward(b.batch(), 1.0 / static_cast<double>(b.counted()), 1, 0, true, false);
  return {loss.sum, loss.tokens, bytes_of(model.flat_grads())};
}

TEST(MaskedLoss, WhichTokenAMaskedTargetIsDoesNotMatterToTheBit) {
  for (const char* recipe : {"f32", "bf16", "wang2025"}) {
    for (std::uint32_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", recipe, seed));
      MaskedBatch b = masked_batch(tiny(), 3, seed);
      const Result before = pass(b, recipe);
      for (std::int32_t& target : b.targets) {
        if (target < 0) target = -100;
      }
      EXPECT_TRUE(pass(b, recipe) == before);
      for (std::int32_t& target : b.targets) {
        if (target < 0) target = 3;  // counted after all
      }
      EXPECT_FALSE(pass(b, recipe) == before);
    }
  }
}

TEST(MaskedLoss, ASequenceOfContextAloneContributesExactlyNothing) {
  for (const char* recipe : {"f32", "bf16"}) {
    for (std::uint32_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", recipe, seed));
      MaskedBatch b = masked_batch(tiny(), 3, seed, true);
      const Result before = pass(b, recipe);
      for (std::size_t i = b.tokens.size() - 9; i < b.tokens.size(); ++i) b.tokens[i] = (b.tokens[i] + 5) % 17;
      EXPECT_TRUE(pass(b, recipe) == before);
    }
  }
}

TEST(MaskedLoss, WhatStandsBehindTheLastCountedTargetContributesExactlyNothing) {
  for (const char* recipe : {"f32", "bf16"}) {
    for (std::uint32_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", recipe, seed));
      MaskedBatch b = masked_batch(tiny(), 1, seed);
      const Result before = pass(b, recipe);
      for (std::size_t i = b.tokens.size(); i-- > 0 && b.targets[i] < 0;) b.tokens[i] = (b.tokens[i] + 5) % 17;
      EXPECT_TRUE(pass(b, recipe) == before);
      b.tokens[0] = (b.tokens[0] + 5) % 17;  // context is read
      EXPECT_FALSE(pass(b, recipe) == before);
    }
  }
}

TEST(MaskedLoss, ABatchWithoutACountedTargetHasNoLossAndNoGradient) {
  MaskedBatch b = masked_batch(tiny(), 1, 3, true);
  ASSERT_EQ(b.counted(), 0);
  for (const char* recipe : {"bf16", "wang2025"}) {
    Llama model(tiny(), load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/" + recipe + ".toml"), 5);
    model.prepare(1, false);
    const BatchLoss loss = model.forward_backward(b.batch(), 1.0, 1, 0, true, false);
    EXPECT_EQ(loss.sum, 0);
    EXPECT_EQ(loss.tokens, 0);
    for (const double g : testing_support::doubles(model.flat_grads())) ASSERT_EQ(g, 0);
    EXPECT_EQ(model.evaluate(b.batch()).mean(), 0);
  }
}

}  // namespace
}  // namespace nibble
