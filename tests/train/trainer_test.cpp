#include "nibble/train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "nibble/train/checkpoint.h"
#include "nibble/train/compare.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
const std::atomic<bool> kNeverStop{false};

/// metrics.jsonl without the one figure that depends on the clock.
std::string metrics_without_rates(const fs::path& run) {
  std::istringstream in(read_file(run / "metrics.jsonl"));
  std::string text;
  for (std::string line; std::getline(in, line);) {
    nlohmann::json json = nlohmann::json::parse(line);
    json.erase("tokens_per_second");
    text += json.dump() + "\n";
  }
  return text;
}

std::string newest_file(const fs::path& run, const char* name) {
  return read_file(newest_checkpoint(run).value() / name);
}

void expect_same_run(const fs::path& a, const fs::path& b) {
  EXPECT_EQ(metrics_without_rates(a), metrics_without_rates(b));
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    EXPECT_TRUE(newest_file(a, file) == newest_file(b, file)) << file << " differs";
  }
}

struct ResumeCase {
  const char* recipe;
  OptimizerKind optimizer;
};

class ResumeOf : public testing::TestWithParam<ResumeCase> {};

TEST_P(ResumeOf, ARunStoppedAtRandomStepsEqualsTheUninterruptedOneBitForBit) {
  TemporaryDirectory folder;
  const fs::path data = write_small_data(folder.path());
  TrainConfig config = small_config(data, 14);
  config.optimizer = GetParam().optimizer;
  const Recipe recipe = recipe_for_test(GetParam().recipe);
  ASSERT_TRUE(train(config, recipe, folder.path() / "whole", Resume::No, kNeverStop, {}));

  std::mt19937 rng(20261122);
  std::int64_t at = 0;
  bool complete = false;
  for (int attempt = 0; !complete; ++attempt) {
    ASSERT_LT(attempt, 20);
    const std::int64_t stop_at = at + 1 + static_cast<std::int64_t>(rng() % 5);
    std::atomic<bool> stop{false};
    TrainCallbacks callbacks;
    callbacks.on_step = [&](const StepReport& r) {
      at = r.step;
      if (r.step >= stop_at) stop = true;
    };
    complete = train(config, recipe, folder.path() / "parts", Resume::IfPresent, stop, callbacks);
  }
  expect_same_run(folder.path() / "whole", folder.path() / "parts");
}

INSTANTIATE_TEST_SUITE_P(Recipes, ResumeOf,
                         testing::Values(ResumeCase{"bf16", OptimizerKind::AdamW},
                                         ResumeCase{"fp4-direct", OptimizerKind::AdamW},
                                         ResumeCase{"wang2025", OptimizerKind::AdamW},
                                         ResumeCase{"wang2025", OptimizerKind::AdamWFp8},
                                         ResumeCase{"wang2025-released", OptimizerKind::AdamW},
                                         ResumeCase{"tests/recipe/stochastic.toml", OptimizerKind::AdamWFp8}),
                         [](const testing::TestParamInfo<ResumeCase>& test) {
                           std::string name = std::filesystem::path(test.param.recipe).stem().string();
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + (test.param.optimizer == OptimizerKind::AdamW ? "_adamw" : "_adamw_fp8");
                         });

TEST(Trainer, LearnsAnEasySequenceInEveryRecipe) {
  TemporaryDirectory folder;
  const fs::path data = write_small_data(folder.path());
  for (const char* name : {"bf16", "fp4-direct", "wang2025", "wang2025-released"}) {
    const TrainConfig config = small_config(data, 60);
    ASSERT_TRUE(train(config, recipe_for_test(name), folder.path() / name, Resume::No, kNeverStop, {}));
    const RunSummary s = summarise_metrics(folder.path() / name);
    EXPECT_EQ(s.steps, 60);
    EXPECT_EQ(s.tokens, 60 * 4 * 16);
    EXPECT_LT(s.val_loss.value(), 3.0) << name;  // uniform guessing gives log 64 = 4.16
  }
}

TEST(Trainer, AnExistingRunIsNotOverwritten) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 2);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  EXPECT_THROW(train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {}), UserError);
}

TEST(Trainer, ResumeWithOtherSettingsNamesTheDifference) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 4);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  config.lr = 0.02;
  try {
    train(config, recipe_for_test("bf16"), run, Resume::Required, kNeverStop, {});
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("was trained with lr = 0.01, this run has lr = 0.02"), std::string::npos)
        << e.what();
  }
}

TEST(Trainer, ResumeOnOtherDataIsRefused) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 4);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  write_split(config.data / "train-00000.bin", 4000, 77);
  EXPECT_THROW(train(config, recipe_for_test("bf16"), run, Resume::Required, kNeverStop, {}), UserError);
}

TEST(Trainer, ALossThatIsNotFiniteStopsBeforeTheUpdateAndNamesTheTensor) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 60);
  config.clip = 0;
  config.lr = 10;  // drives the weights to where BF16 overflows
  config.eps = 0;
  config.weight_decay = 10;
  const fs::path run = folder.path() / "run";
  std::int64_t last = 0;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& r) { last = r.step; };
  try {
    train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, callbacks);
    FAIL() << "60 steps at this learning rate stayed finite";
  } catch (const UserError& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("not finite, first in the "), std::string::npos) << text;
    EXPECT_NE(text.find(fmt::format("step {}:", last + 1)), std::string::npos) << text;
  }
  EXPECT_EQ(summarise_metrics(run).steps, last);
}

TEST(Checkpoint, ADamagedNewestOneIsPassedOver) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 6);
  const fs::path run = folder.path() / "run";
  train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {});
  const fs::path newest = newest_checkpoint(run).value();
  {
    std::fstream file(newest / "optimizer.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x5a');
  }
  std::vector<std::string> warnings;
  const auto found = newest_checkpoint(run, [&](const std::string& w) { warnings.push_back(w); });
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->filename(), "step-00000003");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("optimizer.safetensors' is damaged"), std::string::npos);
  fs::remove(newest / "state.json");
  EXPECT_EQ(newest_checkpoint(run)->filename(), "step-00000003");
}

TEST(Checkpoint, OnlyTheNewestAreKept) {
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), 9);
  config.checkpoint_every = 1;
  config.keep_checkpoints = 3;
  train(config, recipe_for_test("bf16"), folder.path() / "run", Resume::No, kNeverStop, {});
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path() / "run" / "checkpoints")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-00000007", "step-00000008", "step-00000009"}));
}

TEST(Compare, WritesLossGapAndNoiseAndSkipsCompleteRuns) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 8);
  CompareOptions options;
  const std::string root = NIBBLE_SOURCE_DIR;
  options.recipes = {root + "/recipes/bf16.toml", root + "/recipes/fp4-direct.toml"};
  options.out = folder.path() / "compare";
  ASSERT_TRUE(compare(config, options, kNeverStop, {}));
  const nlohmann::json json = nlohmann::json::parse(read_file(options.out / "compare.json"));
  ASSERT_EQ(json["runs"].size(), 3u);  // bf16 with two seeds, fp4-direct with one
  EXPECT_EQ(json["runs"][0]["gap_percent"], 0.0);
  const double bf16 = json["runs"][0]["val_loss"].get<double>();
  const double direct = json["runs"][1]["val_loss"].get<double>();
  EXPECT_NEAR(json["runs"][1]["gap_percent"].get<double>(), 100 * (direct - bf16) / bf16, 1e-9);
  const double other = json["runs"][2]["val_loss"].get<double>();
  EXPECT_NEAR(json["noise_percent"].get<double>(), 100 * std::abs(other - bf16) / ((other + bf16) / 2), 1e-9);
  EXPECT_GT(json["runs"][1]["quality"]["fprop.x"]["snr_db"].get<double>(), 10);

  int steps = 0;
  CompareCallbacks callbacks;
  callbacks.train.on_step = [&](const StepReport&) { ++steps; };
  ASSERT_TRUE(compare(config, options, kNeverStop, callbacks));
  EXPECT_EQ(steps, 0);
}

TEST(Compare, AStoppedComparisonGoesOnToTheSameFigures) {
  TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 8);
  CompareOptions options;
  const std::string root = NIBBLE_SOURCE_DIR;
  options.recipes = {root + "/recipes/bf16.toml", root + "/recipes/wang2025.toml"};
  options.out = folder.path() / "whole";
  ASSERT_TRUE(compare(config, options, kNeverStop, {}));
  CompareOptions stopped = options;
  stopped.out = folder.path() / "parts";
  bool complete = false;
  int budget = 5;
  while (!complete) {
    std::atomic<bool> stop{false};
    int left = budget;
    CompareCallbacks callbacks;
    callbacks.train.on_step = [&](const StepReport&) { stop = --left <= 0; };
    complete = compare(config, stopped, stop, callbacks);
    ++budget;
  }
  for (const char* run : {"bf16-s3", "wang2025-s3", "bf16-s4"}) expect_same_run(options.out / run, stopped.out / run);
}

TEST(Schedule, WarmsUpLinearlyAndEndsAtTheRatio) {
  TrainConfig c;
  c.steps = 1000;
  c.lr = 2e-3;
  EXPECT_NEAR(learning_rate(c, 1), 2e-5, 1e-12);
  EXPECT_NEAR(learning_rate(c, 100), 2e-3, 1e-12);
  EXPECT_NEAR(learning_rate(c, 550), 2e-3 * 0.55, 1e-9);
  EXPECT_NEAR(learning_rate(c, 1000), 2e-4, 1e-12);
  c.schedule = Schedule::Wsd;
  EXPECT_NEAR(learning_rate(c, 799), 2e-3, 1e-12);
  EXPECT_NEAR(learning_rate(c, 900), 2e-3 * 0.55, 1e-9);
  EXPECT_NEAR(learning_rate(c, 1000), 2e-4, 1e-12);
}

TEST(TrainConfig, PrintsToTheSameConfiguration) {
  TrainConfig c = small_config("data", 10);
  c.lr = 0.0123456789;
  const std::string text = to_toml(c);
  EXPECT_EQ(to_toml(read_train_config(ConfigTable::parse_text(text, "printed"))), text);
}

TEST(TrainConfig, OverridesApplyAndUnknownKeysAreRefused) {
  ConfigTable table = ConfigTable::parse_text(small_config_text("data", 10), "small.toml");
  table.set("optimizer.lr=0.5");
  table.set("optimizer.schedule=wsd");
  const TrainConfig c = read_train_config(table);
  EXPECT_EQ(c.lr, 0.5);
  EXPECT_EQ(c.schedule, Schedule::Wsd);
  table.set("train.step=5");
  try {
    read_train_config(table);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("did you mean 'steps'"), std::string::npos) << e.what();
  }
}

TEST(Metrics, ATornLastLineIsDroppedAndADamagedOneRefused) {
  TemporaryDirectory folder;
  std::ofstream(folder.path() / "metrics.jsonl") << "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo";
  EXPECT_EQ(summarise_metrics(folder.path()).steps, 1);
  std::ofstream(folder.path() / "metrics.jsonl") << "{\"step\":1,\"loss\":2}\nrubbish\n{\"step\":2,\"loss\":2}\n";
  EXPECT_THROW(summarise_metrics(folder.path()), UserError);
}

}  // namespace
}  // namespace nibble
