#include "nibble/report/runs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/error.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

class Runs : public testing::Test {
 protected:
  std::filesystem::path run(const std::string& metrics) {
    const std::filesystem::path path = directory_.path() / "run";
    write_text(path / "run.json", R"({"name": "a", "recipe": "bf16", "seed": 7})");
    write_text(path / "metrics.jsonl", metrics);
    return path;
  }
  TemporaryDirectory directory_;
};

TEST_F(Runs, LoadWhatTheTrainerWrote) {
  write_run(directory_.path() / "r", {.name = "wang2025-s3", .recipe = "wang2025", .seed = 3});
  const RunLog run = load_run(directory_.path() / "r");
  EXPECT_EQ(run.name, "wang2025-s3");
  EXPECT_EQ(run.recipe, "wang2025");
  EXPECT_EQ(run.seed, 3u);
  EXPECT_EQ(run.parameters, 8123456);
  EXPECT_EQ(run.version, "0.1.0");
  ASSERT_EQ(run.recipe_table.size(), 1u);
  EXPECT_EQ(run.recipe_table[0].spec, "E2M1 per token");
  ASSERT_EQ(run.settings.size(), 5u);
  EXPECT_EQ(run.settings[0].name, "model");
  const std::vector<std::pair<std::string, std::string>> model = {{"dim", "64"}, {"rope.theta", "10000"}};
  EXPECT_EQ(run.settings[0].values, model);
  ASSERT_EQ(run.steps.size(), 100u);
  EXPECT_EQ(run.steps[9].tokens, 10000);
  EXPECT_DOUBLE_EQ(run.steps[9].loss, 3.5);
  ASSERT_EQ(run.validation.size(), 5u);
  EXPECT_EQ(run.validation[4].step, 100);
  ASSERT_EQ(run.quality.size(), 2u);
  EXPECT_DOUBLE_EQ(run.quality[0].quality[0].snr_db, 18.5);
  EXPECT_DOUBLE_EQ(run.quality[0].quality[0].clamped, 0.02);
  ASSERT_EQ(run.layers.size(), 2u);
  EXPECT_EQ(run.layers[0].layer, "layers.0.attention.qkv");
  EXPECT_EQ(run.layers_step, 100);
}

TEST_F(Runs, TakeANullSnrAsExactAndAnAbsentOneAsNotLogged) {
  write_run(directory_.path() / "r", {.name = "a", .recipe = "a"});
  const RunLog run = load_run(directory_.path() / "r");
  EXPECT_EQ(run.quality[0].quality[1].snr_db, INFINITY);
  EXPECT_TRUE(std::isnan(run.quality[0].quality[2].snr_db));
}

TEST_F(Runs, TakeANullLossAsNotFinite) {
  const RunLog log = load_run(run("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null}\n"));
  ASSERT_EQ(log.steps.size(), 2u);
  EXPECT_EQ(log.steps[0].loss, 2.5);
  EXPECT_TRUE(std::isnan(log.steps[1].loss));
}

TEST_F(Runs, IgnoreATornLastLine) {
  const std::string whole = "{\"step\":1,\"loss\":2.5}\n";
  for (const std::string torn : {"{", "{\"step\":2,\"lo", "{\"step\":2,\"loss\":1.5", ""}) {
    EXPECT_EQ(load_run(run(whole + torn)).steps.size(), 1u) << torn;
  }
}

TEST_F(Runs, TakeAWholeLastLineWithoutNewline) {
  EXPECT_EQ(load_run(run("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":2.4}")).steps.size(), 2u);
}

TEST_F(Runs, NameFileAndLineOfAMalformedLine) {
  const std::filesystem::path path = run("{\"step\":1}\n\n{\"step\":2,\n{\"step\":3}\n");
  const std::string message = message_of([&] { load_run(path); });
  EXPECT_NE(message.find("metrics.jsonl:3:"), std::string::npos) << message;
}

TEST_F(Runs, NameFileAndLineOfAWrongType) {
  const std::filesystem::path path = run("{\"step\":1,\"loss\":\"high\"}\n");
  const std::string message = message_of([&] { load_run(path); });
  EXPECT_NE(message.find("metrics.jsonl:1: 'loss' is not a number"), std::string::npos) << message;
  EXPECT_NE(message_of([&] { load_run(run("[1]\n")); }).find("metrics.jsonl:1:"), std::string::npos);
  EXPECT_NE(message_of([&] { load_run(run("{\"step\":1,\"quality\":3}\n")); }).find("'quality'"), std::string::npos);
}

TEST_F(Runs, LetTheResumedAttemptWin) {
  const RunLog log =
      load_run(run("{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":9,\"val_loss\":9}\n{\"step\":3,\"loss\":9}\n"
                   "{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":1}\n"));
  ASSERT_EQ(log.steps.size(), 3u);
  EXPECT_EQ(log.steps[1].loss, 2);
  EXPECT_EQ(log.steps[2].loss, 1);
  EXPECT_TRUE(log.validation.empty());
}

TEST_F(Runs, MayHaveNoMetricsYet) {
  const std::filesystem::path path = run("");
  std::filesystem::remove(path / "metrics.jsonl");
  EXPECT_TRUE(load_run(path).steps.empty());
}

TEST_F(Runs, RefuseABrokenRunJson) {
  const std::filesystem::path path = run("");
  write_text(path / "run.json", "{\"name\": ");
  EXPECT_NE(message_of([&] { load_run(path); }).find("run.json"), std::string::npos);
  write_text(path / "run.json", R"({"seed": "one"})");
  EXPECT_NE(message_of([&] { load_run(path); }).find("'seed' is not an integer"), std::string::npos);
}

TEST_F(Runs, LoadAComparison) {
  write_text(directory_.path() / "compare.json", R"({"baseline": "bf16", "noise_percent": null, "seeds": [1, 2],
    "runs": [{"name": "bf16-s1", "dir": "bf16-s1", "recipe": "bf16", "seed": 1, "train_loss": 3.0, "val_loss": 3.1,
              "gap_percent": 0, "tokens_per_second": 10, "clamped_share": null,
              "quality": {"fprop.x": {"snr_db": null}}}], "config_text": "a = 1"})");
  const CompareLog compare = load_compare(directory_.path());
  EXPECT_EQ(compare.baseline, "bf16");
  EXPECT_TRUE(std::isnan(compare.noise_percent));
  EXPECT_EQ(compare.seeds, (std::vector<std::uint64_t>{1, 2}));
  ASSERT_EQ(compare.runs.size(), 1u);
  EXPECT_EQ(compare.runs[0].val_loss, 3.1);
  EXPECT_EQ(compare.runs[0].quality[0].snr_db, INFINITY);
  write_text(directory_.path() / "compare.json", "{}");
  EXPECT_NE(message_of([&] { load_compare(directory_.path()); }).find("'runs' is missing"), std::string::npos);
}

TEST(MeanQuality, AveragesNoiseEnergy) {
  Quality a, b;
  a[0].snr_db = 10;
  b[0].snr_db = 20;
  a[1].snr_db = INFINITY;
  b[1].snr_db = INFINITY;
  a[2].snr_db = INFINITY;
  b[2].snr_db = 20;
  a[0].clamped = 0.1;
  const Quality mean = mean_quality({a, b});
  EXPECT_NEAR(mean[0].snr_db, -10 * std::log10((0.1 + 0.01) / 2), 1e-12);
  EXPECT_EQ(mean[1].snr_db, INFINITY);
  EXPECT_NEAR(mean[2].snr_db, -10 * std::log10(0.01 / 2), 1e-12);
  EXPECT_TRUE(std::isnan(mean[3].snr_db));
  EXPECT_EQ(mean[0].clamped, 0.1) << "what one interval did not log does not count as zero";
}

}  // namespace
}  // namespace nibble
