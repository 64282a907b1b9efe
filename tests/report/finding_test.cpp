#include "nibble/report/finding.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

RunResult result(const std::string& recipe, std::uint64_t seed, double val_loss) {
  RunResult one;
  one.name = recipe + "-s" + std::to_string(seed);
  one.recipe = recipe;
  one.seed = seed;
  one.train_loss = val_loss;
  one.val_loss = val_loss;
  return one;
}

Comparison with_noise(std::vector<RunResult> more, double noise) {
  std::vector<RunResult> all = {result("bf16", 1, 4.0 * (1 - noise / 200)), result("bf16", 2, 4.0 * (1 + noise / 200))};
  // Seed 9 has no baseline of its own and is compared with the mean, 4.0.
  for (RunResult& one : more) one.seed = 9;
  all.insert(all.end(), more.begin(), more.end());
  return compare_runs({}, all);
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Finding, OrdersRecipesByTheirGap) {
  const Finding f = state_finding(with_noise({result("fp4", 1, 4.08), result("wang", 1, 4.04)}, 0.3));
  EXPECT_EQ(f.headline, "Against bf16, validation loss is 1.00 % higher with wang and 2.00 % higher with fp4.");
  EXPECT_EQ(f.verdict, "Two seeds of bf16 differ by 0.30 %: every difference here is larger than that noise.");
}

TEST(Finding, CallsAGapWithinTheNoiseTheSame) {
  const Finding f = state_finding(with_noise({result("fp4", 1, 4.08), result("wang", 1, 4.004)}, 0.3));
  EXPECT_TRUE(contains(f.headline, "the same within the noise with wang (+0.10 %)")) << f.headline;
  EXPECT_FALSE(contains(f.verdict, "every difference")) << f.verdict;
}

TEST(Finding, DoesNotOrderRecipesThatAreCloserThanTheNoise) {
  const Finding f = state_finding(with_noise({result("a", 1, 4.080), result("b", 1, 4.084)}, 0.3));
  EXPECT_TRUE(contains(f.verdict, "a and b are closer to each other than the noise: their order may be chance."))
      << f.verdict;
  EXPECT_FALSE(contains(f.verdict, "every difference")) << f.verdict;
}

TEST(Finding, SaysSoWhenARecipeEndsBelowTheBaseline) {
  const Finding f = state_finding(with_noise({result("a", 1, 3.96)}, 0.3));
  EXPECT_TRUE(contains(f.headline, "1.00 % lower with a")) << f.headline;
  EXPECT_TRUE(contains(f.verdict, "a ends below bf16")) << f.verdict;
}

TEST(Finding, AdmitsThatOneSeedKnowsNoNoise) {
  const Finding f = state_finding(compare_runs({}, {result("bf16", 1, 4.0), result("fp4", 1, 4.04)}));
  EXPECT_EQ(f.headline, "Against bf16, validation loss is 1.00 % higher with fp4.");
  EXPECT_TRUE(contains(f.verdict, "noise is not known")) << f.verdict;
}

TEST(Finding, SummarizesManyRecipesByTheirEnds) {
  const Finding f = state_finding(with_noise(
      {result("a", 1, 4.1), result("b", 1, 4.2), result("c", 1, 4.3), result("d", 1, 4.4), result("e", 1, 4.5)}, 0.3));
  EXPECT_TRUE(contains(f.headline, "2.50 % higher with a (the least of 5 recipes)")) << f.headline;
  EXPECT_TRUE(contains(f.headline, "12.50 % higher with e (the most)")) << f.headline;
}

TEST(Finding, OfOneRunIsItsLoss) {
  RunLog log;
  log.name = log.recipe = "fp4";
  log.steps = {{.step = 1500, .tokens = 3000000, .loss = 3.2}};
  log.validation = {{1500, 3.25}};
  EXPECT_EQ(state_finding(compare_runs({log})).headline,
            "fp4 reaches a validation loss of 3.2500 after 1,500 steps (3.00 M tokens).");
}

TEST(Finding, OfRunsWithoutBaselineClaimsNoGap) {
  const Finding f = state_finding(compare_runs({}, {result("a", 1, 4.0), result("b", 1, 4.4)}));
  EXPECT_EQ(f.headline, "Of 2 runs, a has the lowest validation loss, 4.0000, and b the highest, 4.4000 (+10.00 %).");
  EXPECT_TRUE(contains(f.verdict, "no bf16 baseline")) << f.verdict;
}

TEST(Finding, NamesARunThatDiverged) {
  RunLog good, bad;
  good.name = good.recipe = "bf16";
  good.steps = {{.step = 1, .loss = 4}, {.step = 2, .loss = 4}};
  bad.name = bad.recipe = "fp4";
  bad.steps = {{.step = 1, .loss = 4}, {.step = 2, .loss = NAN}};
  const Finding f = state_finding(compare_runs({good, bad}));
  EXPECT_EQ(f.headline, "No run can be compared with the baseline.");
  EXPECT_EQ(f.verdict, "fp4 diverged: the loss stopped being finite.");
  RunLog other = good;
  other.name = other.recipe = "wang";
  EXPECT_EQ(state_finding(compare_runs({good, bad, other})).headline,
            "Against bf16, training loss is the same with wang.");
  EXPECT_EQ(state_finding(compare_runs({bad})).headline, "fp4 diverged after 2 steps.");
}

TEST(Finding, OfNothingIsASentenceToo) {
  EXPECT_EQ(state_finding(compare_runs({})).headline, "There are no runs here.");
  RunLog fresh;
  fresh.name = fresh.recipe = "fp4";
  EXPECT_EQ(state_finding(compare_runs({fresh})).headline, "fp4 has not logged a loss yet.");
}

}  // namespace
}  // namespace nibble
