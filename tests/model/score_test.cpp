// Scores of packed sequences against logits computed one prefix at a time.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "nibble/model/llama.h"
#include "tests/model/small_llama.h"
#include "tests/recipe/shipped_recipes.h"

namespace nibble {
namespace {

using testing_support::small_llama;
using Ids = std::vector<std::int32_t>;

TEST(PackedSequences, SharedBeginningsAreThereOnceAsThePictureShows) {
  const std::vector<Ids> sequences = {{10, 11, 12, 13}, {10, 11, 14}, {15, 16}};
  const PackedSequences packed = pack_sequences(sequences);
  EXPECT_EQ(packed.sequences, 3);
  EXPECT_EQ(packed.seq, 4);
  EXPECT_EQ(packed.tokens, (Ids{10, 11, 12, 13, 14, 15, 16}));
  EXPECT_EQ(packed.at, (Ids{0, 1, 2, 3, 0, 1, 4, 4, 5, 6, 6, 6}));
  EXPECT_EQ(packed.rows[1], (Ids{0, 1, 4}));
  for (std::size_t i = 0; i < packed.tokens.size(); ++i) {
    EXPECT_EQ(packed.at[static_cast<std::size_t>(packed.place[i])], static_cast<std::int32_t>(i));
    EXPECT_TRUE(packed.place[i] != 7 && packed.place[i] < 10) << "token " << i << " is read from padding";
  }
}

TEST(PackedSequences, ABeginningOfTheOneBeforeTakesNothing) {
  const std::vector<Ids> sequences = {{1, 2, 3}, {1, 2, 3}, {1, 2}, {1, 2, 4}};
  const PackedSequences packed = pack_sequences(sequences);
  EXPECT_EQ(packed.sequences, 2);
  EXPECT_EQ(packed.tokens, (Ids{1, 2, 3, 4}));
  EXPECT_EQ(packed.rows, (std::vector<Ids>{{0, 1, 2}, {0, 1, 2}, {0, 1}, {0, 1, 3}}));
}

/// Three items of sequences that begin alike, of odd lengths, one of them a whole sequence of the model.
std::vector<Ids> some_sequences(const LlamaConfig& c) {
  std::mt19937 random(5);
  std::vector<Ids> all;
  for (const std::size_t length : {5u, 17u, 40u}) {
    Ids context;
    const auto token = [&] { return static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(c.vocab)); };
    for (std::size_t i = 0; i < length; ++i) context.push_back(token());
    for (const std::size_t more : {3u, 24u, 1u}) {
      all.push_back(context);
      for (std::size_t i = 0; i < more; ++i) all.back().push_back(token());
    }
  }
  return all;
}

/// Every token of every sequence but the first, and one that is likely.
std::vector<TokenQuery> all_queries(const std::vector<Ids>& sequences, const PackedSequences& packed) {
  std::vector<TokenQuery> queries;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (std::size_t i = 0; i + 1 < sequences[s].size(); ++i) {
      queries.push_back({packed.rows[s][i], sequences[s][i + 1]});
    }
  }
  return queries;
}

TEST(LlamaScore, EqualsBruteForceOverEveryPrefix) {
  LlamaConfig c = small_llama(2);
  c.init_std = 0.2;
  Llama model(c, unquantised_recipe(ElementFormat::F32), 3, DType::F32);
  model.prepare(0, false);
  const std::vector<Ids> sequences = some_sequences(c);
  const PackedSequences packed = pack_sequences(sequences);
  EXPECT_LT(packed.tokens.size(), 170u) << "nothing was shared";
  const std::vector<TokenScore> scores = model.score(packed, all_queries(sequences, packed), true);
  std::size_t next = 0;
  int greedy = 0;
  for (const Ids& sequence : sequences) {
    for (std::size_t i = 1; i < sequence.size(); ++i, ++next) {
      const std::vector<float> logits =
          model.next_token_logits(Ids(sequence.begin(), sequence.begin() + static_cast<long>(i)));
      double sum = 0;
      for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
      const auto target = static_cast<std::size_t>(sequence[i]);
      ASSERT_NEAR(scores[next].log_probability, static_cast<double>(logits[target]) - std::log(sum), 1e-5);
      const bool largest = std::max_element(logits.begin(), logits.end()) - logits.begin() == sequence[i];
      ASSERT_EQ(scores[next].greedy, largest);
      greedy += largest;
    }
  }
  EXPECT_EQ(next, scores.size());
  EXPECT_GT(greedy, 0);
  for (const TokenScore& score : model.score(packed, all_queries(sequences, packed), false)) EXPECT_FALSE(score.greedy);
}

class ScoreByRecipe : public testing_support::ShippedRecipe {};

// The same but for what spans the tokens of a pass: scales of whole tensors, and random numbers by position.
TEST_P(ScoreByRecipe, PackedSequencesScoreAsTheyDoAlone) {
  const LlamaConfig c = small_llama(2);
  Llama model(c, recipe_, 3);
  model.prepare(0, false);
  const std::vector<Ids> sequences = some_sequences(c);
  const PackedSequences packed = pack_sequences(sequences);
  const std::vector<TokenScore> together = model.score(packed, all_queries(sequences, packed), false);
  std::size_t next = 0;
  double difference = 0;
  for (const Ids& sequence : sequences) {
    const std::vector<Ids> one = {sequence};
    const PackedSequences alone = pack_sequences(one);
    for (const TokenScore& score : model.score(alone, all_queries(one, alone), false)) {
      ASSERT_TRUE(std::isfinite(together[next].log_probability));
      difference = std::max(difference, std::abs(static_cast<double>(score.log_probability) -
                                                 static_cast<double>(together[next].log_probability)));
      ++next;
    }
  }
  EXPECT_LT(difference, 0.3);
}
INSTANTIATE_TEST_SUITE_P(All, ScoreByRecipe, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

}  // namespace
}  // namespace nibble
