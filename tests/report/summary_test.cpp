#include "nibble/report/summary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/error.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

RunResult result(const std::string& recipe, std::uint64_t seed, double val_loss) {
  RunResult one;
  one.name = recipe + "-s" + std::to_string(seed);
  one.directory = one.name;
  one.recipe = recipe;
  one.seed = seed;
  one.train_loss = val_loss - 0.1;
  one.val_loss = val_loss;
  return one;
}

class Summary : public testing::Test {
 protected:
  std::filesystem::path add(SyntheticRun run) {
    const std::filesystem::path path = directory_.path() / run.name;
    write_run(path, run);
    return path;
  }
  TemporaryDirectory directory_;
};

TEST(CompareRuns, TakesTheGapToTheSameSeed) {
  const Comparison c = compare_runs(
      {}, {result("bf16", 1, 4.0), result("bf16", 2, 4.04), result("fp4", 1, 4.1), result("fp4", 2, 4.242)});
  EXPECT_EQ(c.baseline, "bf16");
  ASSERT_EQ(c.recipes.size(), 2u);
  EXPECT_NEAR(c.results[2].gap_percent, 2.5, 1e-9);
  EXPECT_NEAR(c.results[3].gap_percent, 5.0, 1e-9);
  EXPECT_NEAR(c.recipes[1].gap_percent, 3.75, 1e-9);
  EXPECT_NEAR(c.recipes[0].gap_percent, 0, 1e-12);
  EXPECT_NEAR(c.noise_percent, 100 * 0.04 / 4.02, 1e-9);
}

TEST(CompareRuns, TakesTheMeanOfTheBaselineWhereNoSeedMatches) {
  const Comparison c = compare_runs({}, {result("bf16", 1, 3.9), result("bf16", 2, 4.1), result("fp4", 3, 4.2)});
  EXPECT_NEAR(c.results[2].gap_percent, 5.0, 1e-9);
}

TEST(CompareRuns, PutsTheBaselineFirst) {
  const Comparison c = compare_runs({}, {result("fp4", 1, 4.1), result("bf16", 1, 4.0)});
  EXPECT_EQ(c.recipes[0].label, "bf16");
  EXPECT_TRUE(std::isnan(c.noise_percent)) << "one seed knows no noise";
}

TEST(CompareRuns, KeepsTheFiguresItIsGiven) {
  RunResult given = result("fp4", 1, 4.1);
  given.gap_percent = 77;
  const Comparison c = compare_runs({}, {result("bf16", 1, 4.0), given}, "bf16", 0.3);
  EXPECT_EQ(c.results[1].gap_percent, 77);
  EXPECT_EQ(c.noise_percent, 0.3);
}

TEST(CompareRuns, HasNoGapWithoutABaseline) {
  const Comparison c = compare_runs({}, {result("a", 1, 4.1), result("b", 1, 4.0)});
  EXPECT_TRUE(c.baseline.empty());
  EXPECT_TRUE(std::isnan(c.recipes[0].gap_percent));
}

TEST(CompareRuns, ComparesTrainingLossesWhereNothingWasValidated) {
  RunResult a = result("bf16", 1, NAN);
  RunResult b = result("fp4", 1, NAN);
  a.train_loss = 4;
  b.train_loss = 5;
  const Comparison c = compare_runs({}, {a, b});
  EXPECT_FALSE(c.gap_is_validation);
  EXPECT_NEAR(c.results[1].gap_percent, 25, 1e-9);
}

TEST(CompareRuns, CallsRunsByNameWhereARecipeOccursTwiceWithOneSeed) {
  RunResult a = result("fp4", 1, 4.1);
  RunResult b = result("fp4", 1, 4.2);
  a.name = "small-batch";
  b.name = "large-batch";
  const Comparison c = compare_runs({}, {a, b});
  ASSERT_EQ(c.recipes.size(), 2u);
  EXPECT_EQ(c.recipes[0].label, "small-batch");
  EXPECT_EQ(c.recipes[1].label, "large-batch");
}

TEST_F(Summary, ComparesRunsOfDifferentLengthAtACommonStep) {
  SyntheticRun base{.name = "bf16-s1", .recipe = "bf16", .steps = 60};
  base.validation = [](int step) { return step == 60 ? 4.0 : 8.0; };
  SyntheticRun longer{.name = "fp4-s1", .recipe = "fp4", .steps = 100};
  longer.validation = [](int step) { return step == 60 ? 4.4 : 1.0; };
  const Comparison c = load_comparison({add(base), add(longer)});
  EXPECT_TRUE(c.unequal_lengths);
  EXPECT_NEAR(c.results[1].gap_percent, 10, 1e-9);
}

TEST_F(Summary, DoesNotCompareDifferentModels) {
  const Comparison c = load_comparison(
      {add({.name = "bf16-s1", .recipe = "bf16", .dim = 64}), add({.name = "fp4-s1", .recipe = "fp4", .dim = 128})});
  EXPECT_TRUE(std::isnan(c.results[1].gap_percent));
}

TEST_F(Summary, TakesComparisonDirectoriesAndDirectoriesOfRuns) {
  add({.name = "bf16-s1", .recipe = "bf16"});
  add({.name = "fp4-s1", .recipe = "fp4"});
  EXPECT_EQ(load_comparison({directory_.path()}).results.size(), 2u);
  write_text(directory_.path() / "compare.json",
             R"({"baseline": "bf16", "noise_percent": 0.25, "seeds": [1], "config_text": "x = 1", "runs": [
               {"name": "bf16-s1", "dir": "bf16-s1", "recipe": "bf16", "seed": 1, "val_loss": 3.0, "gap_percent": 0},
               {"name": "fp4-s1", "dir": "fp4-s1", "recipe": "fp4", "seed": 1, "val_loss": 3.3, "gap_percent": 10}]})");
  const Comparison c = load_comparison({directory_.path()});
  ASSERT_EQ(c.results.size(), 2u);
  EXPECT_EQ(c.results[1].gap_percent, 10);
  EXPECT_EQ(c.noise_percent, 0.25);
  EXPECT_EQ(c.config_text, "x = 1");
  EXPECT_EQ(c.title, directory_.path().filename().string());
  EXPECT_NEAR(c.results[1].quality[0].snr_db, 18.5, 1e-9) << "what compare.json leaves out comes from the log";
}

TEST_F(Summary, RefusesADirectoryThatIsNoRun) {
  EXPECT_THROW(load_comparison({directory_.path()}), UserError);
  EXPECT_THROW(load_comparison({directory_.path() / "absent"}), UserError);
  EXPECT_THROW(load_comparison({}), UserError);
}

TEST_F(Summary, ListsSettingsThatDifferButNotTheSeed) {
  add({.name = "a", .recipe = "a", .seed = 1, .steps = 100});
  add({.name = "b", .recipe = "b", .seed = 2, .steps = 60});
  const std::vector<SettingsDifference> rows = differing_settings(load_comparison({directory_.path()}).logs);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].key, "train.steps");
  EXPECT_EQ(rows[0].values, (std::vector<std::string>{"100", "60"}));
}

}  // namespace
}  // namespace nibble
