#include "nibble/report/runs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/error.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

class Runs : public testing::Test {
 protected:
  TemporaryDirectory directory_;
};

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

TEST_F(Runs, OfADirectoryOfRunsTheCompletedOnesAreLoadedByName) {
  for (const char* name : {"mine-s2", "bf16-s2", "stopped-s1"}) {
    const std::string recipe = std::string(name).substr(0, std::string(name).find('-'));
    write_text(directory_.path() / name / "run.json",
               nlohmann::json({{"recipe", recipe}, {"seed", 2}, {"config", "a = 1"}}).dump());
  }
  write_text(directory_.path() / "mine-s2" / "result.json",
             R"({"train_loss": 3.0, "val_loss": 3.1, "tokens_per_second": 10, "clamped_share": 0.25})");
  write_text(directory_.path() / "bf16-s2" / "result.json", R"({"train_loss": 2.0, "val_loss": null})");
  const std::vector<CompareLog> runs = load_completed_runs(directory_.path(), "bf16");
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].runs[0].recipe, "bf16");
  EXPECT_TRUE(std::isnan(runs[0].runs[0].val_loss));
  EXPECT_EQ(runs[1].baseline, "bf16");
  EXPECT_EQ(runs[1].config_text, "a = 1");
  ASSERT_EQ(runs[1].runs.size(), 1u);
  const RunResult& mine = runs[1].runs[0];
  EXPECT_EQ(mine.directory, "mine-s2");
  EXPECT_EQ(mine.recipe, "mine");
  EXPECT_EQ(mine.seed, 2u);
  EXPECT_EQ(mine.train_loss, 3.0);
  EXPECT_EQ(mine.val_loss, 3.1);
  EXPECT_EQ(mine.tokens_per_second, 10);
  EXPECT_EQ(mine.clamped_share, 0.25);
  write_text(directory_.path() / "mine-s2" / "result.json", R"({"val_loss": "low"})");
  EXPECT_NE(message_of([&] { load_completed_runs(directory_.path(), "bf16"); }).find("'val_loss' is not a number"),
            std::string::npos);
}

}  // namespace
}  // namespace nibble
