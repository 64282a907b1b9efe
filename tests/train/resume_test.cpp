// Every shipped recipe, stopped at random steps, against the run that was not stopped: bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "nibble/train/checkpoint.h"
#include "tests/cuda_testing.h"
#include "tests/recipe/shipped_recipes.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
constexpr int kSteps = 10;

std::vector<std::string> recipes() {
  std::vector<std::string> files = testing_support::shipped_recipes();
  files.emplace_back("tests/recipe/stochastic.toml");
  return files;
}

/// Moves what a recipe does at certain steps of a long run into a run of kSteps steps of a small model.
Recipe hasten(Recipe recipe) {
  for (Stage& stage : recipe.stages) {
    stage.below = 1e9;
    stage.patience = std::min<std::int64_t>(stage.patience, 2);
    stage.rewarm_steps = std::min<std::int64_t>(stage.rewarm_steps, 2);
    for (LinearRecipe& linear : stage.linear) {
      linear.outlier_channels.multiple = 8;
      linear.outlier_channels.first_step = 2;
      linear.outlier_channels.last_step = 5;
      linear.weight_average.start_step = 2;
      linear.oscillation_reset.threshold *= 0.1;
      linear.oscillation_reset.start_fraction = 0.2;
      linear.oscillation_reset.period = 4;
      linear.oscillation_reset.window = 3;
    }
  }
  return recipe;
}

/// Whether a transform of the recipe needs more columns than the small model has.
bool is_wide(const Recipe& recipe) {
  for (const Stage& stage : recipe.stages) {
    for (const LinearRecipe& linear : stage.linear) {
      for (const OperandSpec& operand : linear.operands) {
        if (operand.quant.hadamard.group > 32) return true;
      }
    }
  }
  return false;
}

void expect_resume_changes_nothing(const std::string& name, Device device) {
  TemporaryDirectory folder;
  const Recipe recipe = hasten(recipe_for_test(name));
  TrainConfig config = small_config(write_small_data(folder.path()), kSteps);
  config.device = device;
  config.model.ffn = 64;
  if (is_wide(recipe)) {
    config.model.layers = 1;
    config.model.width = config.model.ffn = 128;
    config.model.seq = 64;
  }
  config.quality_every = 2;
  config.checkpoint_every = 0;
  config.validate_sequences = 4;
  // What an optimizer with states of its own for the weights must hear of.
  const bool writes_weights = recipe.base().oscillation_reset.enabled();
  if (writes_weights || name.starts_with("tests/")) config.optimizer = OptimizerKind::AdamWFp8;
  const fs::path whole = folder.path() / "whole";
  const fs::path parts = folder.path() / "parts";
  ASSERT_TRUE(train(config, recipe, whole, Resume::No, kNeverStop, {}));

  const auto seed = static_cast<unsigned>(std::hash<std::string>()(name));
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  const std::int64_t first = 1 + static_cast<std::int64_t>(rng() % (kSteps - 2));
  const std::int64_t second = first + 1 + static_cast<std::int64_t>(rng() % static_cast<unsigned>(kSteps - 1 - first));
  SCOPED_TRACE(testing::Message() << "stopped after steps " << first << " and " << second);
  EXPECT_FALSE(train_until(first, config, recipe, parts));
  EXPECT_FALSE(train_until(second, config, recipe, parts));
  ASSERT_TRUE(train(config, recipe, parts, Resume::Required, kNeverStop, {}));
  expect_same_run(whole, parts);

  // What the recipe does beside rounding has happened in these steps.
  const std::string metrics = read_file(whole / "metrics.jsonl");
  if (recipe.stages.size() > 1) {
    EXPECT_NE(metrics.find("\"stage\":2"), std::string::npos);
  }
  if (writes_weights) {
    EXPECT_NE(metrics.find("weights_reset"), std::string::npos);
  }
  const bool has_state = recipe.base().weight_average.enabled() || recipe.base().outlier_channels.enabled();
  if (has_state) {
    EXPECT_TRUE(fs::exists(newest_checkpoint(whole).value() / "recipe.safetensors"));
  }
}

class ResumeOf : public testing::TestWithParam<std::string> {};

TEST_P(ResumeOf, ARunStoppedAtRandomStepsEqualsTheUninterruptedOneBitForBit) {
  expect_resume_changes_nothing(GetParam(), Device::Cpu);
}

TEST_P(ResumeOf, OnTheGpuARunStoppedAtRandomStepsEqualsTheUninterruptedOneBitForBit) {
  NIBBLE_NEEDS_GPU();
  expect_resume_changes_nothing(GetParam(), Device::Cuda);
}

INSTANTIATE_TEST_SUITE_P(Recipes, ResumeOf, testing::ValuesIn(recipes()), testing_support::recipe_test_name);

}  // namespace
}  // namespace nibble
