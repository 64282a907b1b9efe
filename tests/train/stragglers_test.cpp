#include "nibble/train/stragglers.h"

#include <gtest/gtest.h>

#include "nibble/tensor/error.h"

namespace nibble {
namespace {

std::vector<std::string> hosts(int ranks) {
  std::vector<std::string> names(static_cast<std::size_t>(ranks));
  for (std::size_t r = 0; r < names.size(); ++r) names[r] = "node" + std::to_string(r / 2);
  return names;
}

Stragglers watch(const std::vector<std::int64_t>& passes) { return {hosts(static_cast<int>(passes.size())), passes}; }

/// What is said within so many windows of the same steps.
std::vector<std::string> after_windows(Stragglers& watch, const std::vector<double>& seconds, int windows) {
  std::vector<std::string> said;
  for (std::size_t i = 0; i < static_cast<std::size_t>(windows) * Stragglers::kWindow; ++i) {
    for (std::string& sentence : watch.after_step(seconds)) said.push_back(std::move(sentence));
  }
  return said;
}

TEST(RankSeconds, AreSpreadByMinimumMedianMaximumAndWhoseItIs) {
  const RankSeconds odd = spread_of(std::vector<double>{3, 1, 7});
  EXPECT_EQ(odd.min, 1);
  EXPECT_EQ(odd.median, 3);
  EXPECT_EQ(odd.max, 7);
  EXPECT_EQ(odd.slowest, 2);
  const RankSeconds even = spread_of(std::vector<double>{4, 2, 4, 1});
  EXPECT_EQ(even.median, 2);
  EXPECT_EQ(even.slowest, 0);
  EXPECT_EQ(spread_of(std::vector<double>{5}).median, 5);
  EXPECT_THROW(spread_of({}), InternalError);
}

TEST(Stragglers, ASlowRankIsNamedOnceWithItsHostAndByHowMuch) {
  Stragglers four = watch({1, 1, 1, 1});
  const std::vector<std::string> said = after_windows(four, {0.4, 0.41, 0.39, 0.524}, 10);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_EQ(said[0],
            "rank 3 (node1) takes 1.31 x the median step: 0.524 s of its own, the median is 0.4 s (over 16 steps)");
}

TEST(Stragglers, OfTwoRanksTheSlowerIsMeasuredAgainstTheOther) {
  Stragglers two = watch({1, 1});
  const std::vector<std::string> said = after_windows(two, {0.3, 0.2}, 1);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_TRUE(said[0].starts_with("rank 0 (node0) takes 1.50 x ")) << said[0];
}

TEST(Stragglers, NothingIsSaidBeforeAWindowIsFullOrWhileRanksKeepUp) {
  Stragglers watched = watch({1, 1});
  for (std::size_t i = 1; i < Stragglers::kWindow; ++i) {
    EXPECT_TRUE(watched.after_step(std::vector<double>{1, 2}).empty());
  }
  EXPECT_EQ(watched.after_step(std::vector<double>{1, 2}).size(), 1U);
  Stragglers even = watch({1, 1, 1});
  EXPECT_TRUE(after_windows(even, {1, 1.1, 1.19}, 5).empty());
  EXPECT_TRUE(after_windows(even, {0, 0, 0}, 2).empty());
}

TEST(Stragglers, ASlowStepNowAndThenIsNone) {
  Stragglers watched = watch({1, 1});
  std::vector<std::string> said;
  for (int step = 0; step < 160; ++step) {  // rank 0 measures every fourth step
    for (std::string& sentence : watched.after_step(std::vector<double>{step % 4 == 0 ? 9.0 : 1.0, 1.0})) {
      said.push_back(std::move(sentence));
    }
  }
  EXPECT_TRUE(said.empty());
}

TEST(Stragglers, AreNamedAgainOnlyAfterTheyCaughtUp) {
  Stragglers watched = watch({1, 1});
  EXPECT_EQ(after_windows(watched, {1, 1.3}, 1).size(), 1U);
  EXPECT_TRUE(after_windows(watched, {1, 1.15}, 1).empty());  // between the two limits: as it was
  EXPECT_TRUE(after_windows(watched, {1, 1.3}, 1).empty());
  EXPECT_EQ(after_windows(watched, {1, 1.05}, 2), std::vector<std::string>{"rank 1 (node0) keeps up again"});
  EXPECT_TRUE(after_windows(watched, {1, 1.15}, 1).empty());
  EXPECT_EQ(after_windows(watched, {1, 1.3}, 1).size(), 1U);
}

TEST(Stragglers, WhoHasMoreMicroBatchesMayTakeLonger) {
  Stragglers uneven = watch({1, 2});  // three micro-batches on two ranks
  EXPECT_TRUE(after_windows(uneven, {1, 2.1}, 2).empty());
  EXPECT_EQ(after_windows(uneven, {1, 2.5}, 1).size(), 1U);
  Stragglers slow_with_few = watch({1, 2});
  const std::vector<std::string> said = after_windows(slow_with_few, {3, 2}, 1);
  ASSERT_EQ(said.size(), 1U);
  EXPECT_TRUE(said[0].starts_with("rank 0 (node0) takes 1.50 x ")) << said[0];
}

TEST(Stragglers, SeveralAreNamedEach) {
  Stragglers watched = watch({1, 1, 1, 1, 1});
  EXPECT_EQ(after_windows(watched, {1, 2, 1, 3, 1}, 3).size(), 2U);
}

TEST(Stragglers, TimesOfOtherRanksAreRefused) {
  Stragglers watched = watch({1, 1});
  EXPECT_THROW(watched.after_step(std::vector<double>{1}), InternalError);
}

}  // namespace
}  // namespace nibble
