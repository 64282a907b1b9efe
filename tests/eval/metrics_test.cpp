#include "nibble/eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/eval/bootstrap.h"

namespace nibble {
namespace {

Item choices(std::vector<std::string> texts, std::int64_t gold) {
  Item item;
  item.choices = std::move(texts);
  item.pairs.resize(item.choices.size());
  item.gold = gold;
  return item;
}

std::vector<Score> scores(std::initializer_list<double> values) {
  std::vector<Score> all;
  for (const double value : values) all.push_back({value, false});
  return all;
}

TEST(Metrics, AccuracyTakesTheLikeliestTheFirstOfEquals) {
  EXPECT_EQ(item_value(Metric::Acc, choices({"a", "b"}, 1), scores({-2, -1})), 1);
  EXPECT_EQ(item_value(Metric::Acc, choices({"a", "b"}, 1), scores({-1, -1})), 0);
  EXPECT_EQ(item_value(Metric::Acc, choices({"a", "b"}, 0), scores({-1, -1})), 1);
}

TEST(Metrics, NormalisationsDivideByCharactersOrBytes) {
  // 4 characters in 8 bytes against 6 in 6: -12 / 4 = -3 and -15 / 6 = -2.5; -12 / 8 = -1.5.
  const Item item = choices({"\u0436\u0436\u0436\u0436", "abcdef"}, 1);
  EXPECT_EQ(item_value(Metric::Acc, item, scores({-12, -15})), 0);
  EXPECT_EQ(item_value(Metric::AccNorm, item, scores({-12, -15})), 1);
  EXPECT_EQ(item_value(Metric::AccBytes, item, scores({-12, -15})), 0);
}

TEST(Metrics, MeanAndItsStandardErrorByHand) {
  const std::vector<Item> items(4, choices({"a", "b"}, 0));
  const std::vector<std::vector<Score>> all = {scores({0, -1}), scores({0, -1}), scores({0, -1}), scores({-1, 0})};
  const Figure figure = figure_of(Metric::Acc, items, all);
  EXPECT_DOUBLE_EQ(figure.value, 0.75);
  // s^2 = (3 * 0.0625 + 0.5625) / 3 = 0.25
  EXPECT_DOUBLE_EQ(figure.standard_error, 0.25);
  EXPECT_TRUE(std::isnan(figure_of(Metric::Acc, std::span(items).first(1), std::span(all).first(1)).standard_error));
}

TEST(Metrics, GreedyDecodingIsAContinuationsAccuracy) {
  Item item;
  item.pairs.resize(1);
  EXPECT_EQ(item_value(Metric::Acc, item, std::vector<Score>{{-3, true}}), 1);
  EXPECT_EQ(item_value(Metric::Acc, item, std::vector<Score>{{-1, false}}), 0);
}

TEST(Metrics, PerplexitiesWeighByWordsAndBytes) {
  std::vector<Item> items(2);
  for (Item& item : items) item.pairs.resize(1);
  items[0].words = 2;
  items[0].bytes = 8;
  items[1].words = 3;
  items[1].bytes = 12;
  const std::vector<std::vector<Score>> all = {scores({-4}), scores({-11})};
  EXPECT_DOUBLE_EQ(figure_of(Metric::WordPerplexity, items, all).value, std::exp(3.0));
  EXPECT_DOUBLE_EQ(figure_of(Metric::BytePerplexity, items, all).value, std::exp(0.75));
  EXPECT_DOUBLE_EQ(figure_of(Metric::BitsPerByte, items, all).value, 0.75 / std::log(2.0));
  EXPECT_TRUE(std::isnan(figure_of(Metric::BitsPerByte, items, all).standard_error));
  EXPECT_DOUBLE_EQ(figure_of(Metric::Perplexity, items, all).value, std::exp(7.5));
}

// Values of CPython 3.11: random.Random(0), random.Random(99), and the harness's bootstrap of two rounds.
TEST(Bootstrap, DrawsAndResultAreThoseOfPython) {
  PythonRandom zero(0);
  EXPECT_EQ(zero.uniform(), 0.8444218515250481);
  EXPECT_EQ(zero.uniform(), 0.7579544029403025);
  PythonRandom other(99);
  EXPECT_EQ(other.uniform(), 0.40397807494366633);
  EXPECT_EQ(other.uniform(), 0.20007544457494542);
  const double values[] = {-1, -2, -4};
  EXPECT_NEAR(bootstrap_perplexity_error(values, 2000), 10.812725662709068, 1e-12);
  EXPECT_TRUE(std::isnan(bootstrap_perplexity_error(std::span(values).first(1))));
}

}  // namespace
}  // namespace nibble
