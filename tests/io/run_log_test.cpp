#include "nibble/io/run_log.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/error.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

class RunLogs : public testing::Test {
 protected:
  std::filesystem::path run(const std::string& metrics) {
    const std::filesystem::path path = directory_.path() / "run";
    write_text(path / "run.json", R"({"name": "a", "recipe": "bf16", "seed": 7})");
    write_text(path / "metrics.jsonl", metrics);
    return path;
  }
  TemporaryDirectory directory_;
};

TEST_F(RunLogs, LoadWhatTheTrainerWrote) {
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
  EXPECT_DOUBLE_EQ(run.quality[0].total.quality[0].snr_db, 18.5);
  EXPECT_DOUBLE_EQ(run.quality[0].total.quality[0].clamped, 0.02);
  ASSERT_EQ(run.quality[1].layers.size(), 2u);
  EXPECT_EQ(run.quality[1].layers[0].layer, "layers.0.attention.qkv");
  EXPECT_EQ(run.quality[1].step, 100);
}

TEST_F(RunLogs, TakeANullSnrAsExactAndAnAbsentOneAsNotLogged) {
  write_run(directory_.path() / "r", {.name = "a", .recipe = "a"});
  const RunLog run = load_run(directory_.path() / "r");
  EXPECT_EQ(run.quality[0].total.quality[1].snr_db, INFINITY);
  EXPECT_TRUE(std::isnan(run.quality[0].total.quality[2].snr_db));
}

TEST_F(RunLogs, TakeANullLossAsNotFinite) {
  const RunLog log = load_run(run("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null}\n"));
  ASSERT_EQ(log.steps.size(), 2u);
  EXPECT_EQ(log.steps[0].loss, 2.5);
  EXPECT_TRUE(std::isnan(log.steps[1].loss));
}

TEST_F(RunLogs, IgnoreATornLastLine) {
  const std::string whole = "{\"step\":1,\"loss\":2.5}\n";
  for (const std::string torn : {"{", "{\"step\":2,\"lo", "{\"step\":2,\"loss\":1.5", ""}) {
    EXPECT_EQ(load_run(run(whole + torn)).steps.size(), 1u) << torn;
  }
}

TEST_F(RunLogs, TakeAWholeLastLineWithoutNewline) {
  EXPECT_EQ(load_run(run("{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":2.4}")).steps.size(), 2u);
}

TEST_F(RunLogs, NameFileAndLineOfAMalformedLine) {
  const std::filesystem::path path = run("{\"step\":1}\n\n{\"step\":2,\n{\"step\":3}\n");
  const std::string message = message_of([&] { load_run(path); });
  EXPECT_NE(message.find("metrics.jsonl:3:"), std::string::npos) << message;
}

TEST_F(RunLogs, NameFileAndLineOfAWrongType) {
  const std::filesystem::path path = run("{\"step\":1,\"loss\":\"high\"}\n");
  const std::string message = message_of([&] { load_run(path); });
  EXPECT_NE(message.find("metrics.jsonl:1: 'loss' is not a number"), std::string::npos) << message;
  EXPECT_NE(message_of([&] { load_run(run("[1]\n")); }).find("metrics.jsonl:1:"), std::string::npos);
  EXPECT_NE(message_of([&] { load_run(run("{\"step\":1,\"quality\":3}\n")); }).find("'quality'"), std::string::npos);
}

TEST_F(RunLogs, LetTheResumedAttemptWin) {
  const RunLog log =
      load_run(run("{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":9,\"val_loss\":9}\n{\"step\":3,\"loss\":9}\n"
                   "{\"step\":2,\"loss\":2}\n{\"step\":3,\"loss\":1}\n"));
  ASSERT_EQ(log.steps.size(), 3u);
  EXPECT_EQ(log.steps[1].loss, 2);
  EXPECT_EQ(log.steps[2].loss, 1);
  EXPECT_TRUE(log.validation.empty());
}

TEST_F(RunLogs, MayHaveNoMetricsYet) {
  const std::filesystem::path path = run("");
  std::filesystem::remove(path / "metrics.jsonl");
  EXPECT_TRUE(load_run(path).steps.empty());
}

TEST_F(RunLogs, RefuseABrokenRunJson) {
  const std::filesystem::path path = run("");
  write_text(path / "run.json", "{\"name\": ");
  EXPECT_NE(message_of([&] { load_run(path); }).find("run.json"), std::string::npos);
  write_text(path / "run.json", R"({"seed": "one"})");
  EXPECT_NE(message_of([&] { load_run(path); }).find("'seed' is not an integer"), std::string::npos);
}

TEST_F(RunLogs, GiveTheFinalFigures) {
  SyntheticRun synthetic{.name = "a", .recipe = "a"};
  synthetic.loss = [](int step) { return step; };
  write_run(directory_.path() / "r", synthetic);
  const RunFigures figures = final_figures(load_run(directory_.path() / "r"));
  EXPECT_EQ(figures.steps, 100);
  EXPECT_EQ(figures.tokens, 100000);
  EXPECT_DOUBLE_EQ(figures.train_loss, 98) << "mean of the last five of a hundred steps";
  EXPECT_DOUBLE_EQ(figures.val_loss, 3.15);
  EXPECT_DOUBLE_EQ(figures.tokens_per_second, 500);
  EXPECT_DOUBLE_EQ(figures.clamped_share, 0.02);
  EXPECT_NEAR(figures.quality[0].snr_db, 18.5, 1e-9);
}

TEST_F(RunLogs, GiveAtLeastTheLastStepAndLeaveOutTheWarmUp) {
  const RunLog log =
      load_run(run("{\"step\":1,\"loss\":3,\"tokens_per_second\":1}\n{\"step\":2,\"loss\":2,"
                   "\"tokens_per_second\":9}\n"));
  EXPECT_EQ(final_figures(log).train_loss, 2);
  std::string lines;
  for (int step = 1; step <= 20; ++step) {
    lines += fmt::format("{{\"step\":{},\"tokens_per_second\":{}}}\n", step, step <= 11 ? 1 : 9);
  }
  EXPECT_EQ(final_figures(load_run(run(lines))).tokens_per_second, 5) << "nine steps at 1 and nine at 9 are left";
  EXPECT_TRUE(std::isnan(final_figures(load_run(run(""))).train_loss));
}

TEST_F(RunLogs, HoldTelemetryStagesAndAlarms) {
  const RunLog log = load_run(run(
      R"({"step":1,"stage":1,"quality":{"fprop.x":{"snr_db":20,"clipped":0.01,"bias":-0.02,"scale_saturated":0.5,)"
      R"("scale_underflow":0.25}},"products":{"wgrad":{"cosine":0.9,"magnitude":1.1,"noise":0.2}},"oscillation":1.5,)"
      R"("gradient_to_noise":5,"layers":{"b":{"fprop.x":{"snr_db":21},"products":{"dgrad":{"cosine":0.8}},)"
      R"("oscillation":2},"a":{}}})"
      "\n{\"step\":2,\"stage\":1,\"alarms\":[\"first\",\"second\"]}\n{\"step\":3,\"stage\":2}\n"
      "{\"step\":4,\"stage\":2}\n"));
  ASSERT_EQ(log.quality.size(), 1u);
  const QualityPoint& point = log.quality[0];
  EXPECT_EQ(point.total.quality[0].clipped, 0.01);
  EXPECT_EQ(point.total.quality[0].bias, -0.02);
  EXPECT_EQ(point.total.quality[0].scale_saturated, 0.5);
  EXPECT_EQ(point.total.quality[0].scale_underflow, 0.25);
  EXPECT_EQ(point.total.products[2].noise, 0.2);
  EXPECT_TRUE(std::isnan(point.total.products[0].cosine));
  EXPECT_EQ(point.total.oscillation, 1.5);
  EXPECT_EQ(point.gradient_to_noise, 5);
  ASSERT_EQ(point.layers.size(), 2u);
  EXPECT_EQ(point.layers[0].layer, "b") << "in the order of the log";
  EXPECT_EQ(point.layers[0].products[1].cosine, 0.8);
  EXPECT_EQ(point.layers[0].oscillation, 2);
  ASSERT_EQ(log.stages.size(), 1u);
  EXPECT_EQ(log.stages[0].step, 3);
  EXPECT_EQ(log.stages[0].stage, 2);
  ASSERT_EQ(log.alarms.size(), 2u);
  EXPECT_EQ(log.alarms[1].step, 2);
  EXPECT_EQ(log.alarms[1].sentence, "second");
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
