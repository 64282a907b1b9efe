#include "nibble/io/suggest.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

TEST(EditDistance, CountsInsertionDeletionSubstitutionAndExchange) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("steps", "step"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("warmup", "wramup"), 1u);
  EXPECT_EQ(edit_distance("ca", "abc"), 3u);  // optimal string alignment: no edit inside an exchange
}

TEST(EditDistance, IgnoresTheCaseOfAsciiLetters) { EXPECT_EQ(edit_distance("SeqLen", "seqlen"), 0u); }

TEST(EditDistance, IsSymmetric) {
  const std::vector<std::string> words = {"lr", "learning_rate", "warmup_steps", "steps", "seed", ""};
  for (const auto& a : words) {
    for (const auto& b : words) EXPECT_EQ(edit_distance(a, b), edit_distance(b, a)) << a << " " << b;
  }
}

TEST(NearestName, FindsWhatWasMeant) {
  const std::vector<std::string> keys = {"batch_size", "learning_rate", "seed", "warmup_steps"};
  EXPECT_EQ(nearest_name("lerning_rate", keys), "learning_rate");
  EXPECT_EQ(nearest_name("batchsize", keys), "batch_size");
  EXPECT_EQ(nearest_name("sede", keys), "seed");
  EXPECT_EQ(nearest_name("Seed", keys), "seed");
}

TEST(NearestName, IsSilentWhenNothingIsNear) {
  const std::vector<std::string> keys = {"batch_size", "seed"};
  EXPECT_EQ(nearest_name("momentum", keys), "");
  EXPECT_EQ(nearest_name("x", {}), "");
}

TEST(NearestName, TakesTheFirstOfEquals) {
  const std::vector<std::string> keys = {"beta1", "beta2"};
  EXPECT_EQ(nearest_name("beta3", keys), "beta1");
}

TEST(DidYouMean, IsTheEndOfASentenceOrNothing) {
  const std::vector<std::string> keys = {"seed"};
  EXPECT_EQ(did_you_mean("sed", keys), "; did you mean 'seed'?");
  EXPECT_EQ(did_you_mean("quantile", keys), "");
}

}  // namespace
}  // namespace nibble
