#include "nibble/report/league.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nibble/tensor/error.h"
#include "tests/report/markup.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

using Losses = std::map<std::string, std::vector<nlohmann::json>>;  // recipe -> loss of seed 1, 2, ...

struct SyntheticComparison {
  int width = 64;
  std::string data = "data/a";
  int steps = 100;
  std::string baseline = "bf16";
  Losses losses;
};

std::string config_of(const SyntheticComparison& c) {
  return fmt::format(
      "[model]\nname = \"m{0}\"\nlayers = 2\nwidth = {0}\nheads = 2\nkv_heads = 2\nffn = 128\nvocab = 256\nseq = 32\n"
      "[data]\ndir = \"{1}\"\n[train]\nsteps = {2}\nbatch = 4\n[optimizer]\nlr = 0.001\n",
      c.width, c.data, c.steps);
}

void write_comparison(const fs::path& directory, const SyntheticComparison& c) {
  nlohmann::json runs = nlohmann::json::array();
  for (const auto& [recipe, losses] : c.losses) {
    for (std::size_t s = 0; s < losses.size(); ++s) {
      const std::string name = recipe + "-s" + std::to_string(s + 1);
      runs.push_back({{"name", name},
                      {"dir", name},
                      {"recipe", recipe},
                      {"seed", s + 1},
                      {"train_loss", losses[s]},
                      {"val_loss", losses[s]},
                      {"tokens_per_second", 100.0 * static_cast<double>(s + 1)}});
    }
  }
  write_text(directory / "compare.json",
             nlohmann::json({{"baseline", c.baseline}, {"runs", runs}, {"config_text", config_of(c)}}).dump());
}

/// The same runs as `nibble train` leaves them, without a comparison.
void write_runs(const fs::path& directory, const SyntheticComparison& c) {
  for (const auto& [recipe, losses] : c.losses) {
    for (std::size_t s = 0; s < losses.size(); ++s) {
      const fs::path run = directory / (recipe + "-s" + std::to_string(s + 1));
      write_text(run / "run.json",
                 nlohmann::json({{"recipe", recipe}, {"seed", s + 1}, {"config", config_of(c)}}).dump());
      write_text(run / "result.json", nlohmann::json({{"train_loss", losses[s]},
                                                      {"val_loss", losses[s]},
                                                      {"tokens_per_second", 100.0 * static_cast<double>(s + 1)}})
                                          .dump());
    }
  }
}

const std::map<std::string, double> kCosts = {{"bf16", 1}, {"half", 0.5}, {"third", 0.33}, {"bad", 0.6}, {"nan", 0.2}};

LeagueKnowledge knowledge() {
  return {[](const ConfigTable& model) { return 1000.0 * static_cast<double>(model.integer("width", 0, 0, 1 << 20)); },
          [](const ConfigTable&, const std::string& recipe, const std::string&) { return kCosts.at(recipe); }};
}

class LeagueTest : public testing::Test {
 protected:
  fs::path add(const std::string& name, const SyntheticComparison& c) {
    write_comparison(directory_.path() / name, c);
    return directory_.path() / name;
  }
  void expect_refusal(const std::vector<fs::path>& sources, const std::string& part) {
    try {
      make_league(sources, knowledge());
      ADD_FAILURE() << "not refused: " << part;
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    }
  }
  TemporaryDirectory directory_;
};

const Losses kLosses = {{"bf16", {2.0, 4.0}}, {"half", {2.02, 4.12}}, {"third", {2.2, 4.4}}, {"bad", {2.1, 4.2}}};

const LeagueEntry& entry(const LeagueSize& size, const std::string& recipe) {
  for (const LeagueEntry& e : size.entries) {
    if (e.recipe == recipe) return e;
  }
  throw std::runtime_error("no entry " + recipe);
}

TEST_F(LeagueTest, GapsArePairedBySeedWithTheirStandardError) {
  const League league = make_league({add("a", {.losses = kLosses})}, knowledge());
  ASSERT_EQ(league.sizes.size(), 1u);
  const LeagueSize& size = league.sizes[0];
  EXPECT_EQ(size.parameters, 64000);
  EXPECT_EQ(size.tokens, 100 * 4 * 32);
  const LeagueEntry& half = entry(size, "half");  // gaps 1 % and 3 %
  EXPECT_NEAR(half.gap_percent, 2, 1e-9);
  EXPECT_NEAR(half.gap_error, 1, 1e-9);  // sqrt((1 + 1) / (2 * 1))
  EXPECT_NEAR(half.val_loss, 3.07, 1e-9);
  EXPECT_NEAR(half.tokens_per_second, 150, 1e-9);
  EXPECT_EQ(entry(size, "bf16").gap_percent, 0);
  EXPECT_NEAR(size.noise_percent, 100 * 2.0 / 3.0, 1e-9);
}

TEST_F(LeagueTest, EntriesAreSortedByGapAndTheFrontIsMarked) {
  const LeagueSize size = make_league({add("a", {.losses = kLosses})}, knowledge()).sizes[0];
  std::vector<std::string> order;
  for (const LeagueEntry& e : size.entries) order.push_back(e.recipe);
  EXPECT_EQ(order, (std::vector<std::string>{"bf16", "half", "bad", "third"}));
  EXPECT_TRUE(entry(size, "bf16").pareto);
  EXPECT_TRUE(entry(size, "half").pareto);
  EXPECT_TRUE(entry(size, "third").pareto);
  EXPECT_FALSE(entry(size, "bad").pareto);  // half is closer and cheaper
}

TEST_F(LeagueTest, ADivergedRecipeComesLastWithoutAGap) {
  Losses losses = kLosses;
  losses["nan"] = {2.5, nullptr};
  const LeagueSize size = make_league({add("a", {.losses = losses})}, knowledge()).sizes[0];
  EXPECT_EQ(size.entries.back().recipe, "nan");
  EXPECT_TRUE(size.entries.back().diverged);
  EXPECT_TRUE(std::isnan(size.entries.back().gap_percent));
  EXPECT_FALSE(size.entries.back().pareto);
}

TEST_F(LeagueTest, OneSeedHasNoError) {
  const League league = make_league({add("a", {.losses = {{"bf16", {2.0}}, {"half", {2.1}}}})}, knowledge());
  EXPECT_TRUE(std::isnan(entry(league.sizes[0], "half").gap_error));
  EXPECT_TRUE(std::isnan(league.sizes[0].noise_percent));
  EXPECT_NE(league_text(league).find("bf16 ran with one seed"), std::string::npos);
}

TEST_F(LeagueTest, RunsWithoutTheirBaselineSaySo) {
  const fs::path runs = directory_.path() / "runs";
  write_runs(runs, {.losses = {{"half", {2.1, 4.2}}}});
  const League league = make_league({runs}, knowledge());
  EXPECT_NE(league_text(league).find("bf16 did not run"), std::string::npos) << league_text(league);
}

TEST_F(LeagueTest, ComparisonsOfOneSizeAreJoinedAndSizesSorted) {
  const fs::path large = add("large", {.width = 128, .losses = kLosses});
  const fs::path first = add("first", {.losses = {{"bf16", {2.0, 4.0}}, {"half", {2.1, 4.2}}}});
  const fs::path second = add("second", {.losses = {{"bf16", {2.0, 4.0}}, {"third", {2.2, 4.4}}}});
  const League league = make_league({large, first, second}, knowledge());
  ASSERT_EQ(league.sizes.size(), 2u);
  EXPECT_EQ(league.sizes[0].model, "m64");
  EXPECT_EQ(league.sizes[0].entries.size(), 3u);
  EXPECT_EQ(league.sizes[1].model, "m128");
  EXPECT_NEAR(entry(league.sizes[0], "third").gap_percent, 10, 1e-9);
}

TEST_F(LeagueTest, AFolderOfRunsIsALeagueWhoseRecipesMayDifferInTheirSeeds) {
  Losses losses = kLosses;
  losses["third"].pop_back();
  const fs::path runs = directory_.path() / "runs";
  write_runs(runs, {.losses = losses});
  write_text(runs / "half-s3" / "run.json", R"({"recipe": "half", "seed": 3})");  // it was stopped: no result.json
  const League league = make_league({runs}, knowledge());
  ASSERT_EQ(league.sizes.size(), 1u);
  const LeagueSize& size = league.sizes[0];
  EXPECT_EQ(size.baseline, "bf16");
  EXPECT_EQ(entry(size, "half").seeds, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_NEAR(entry(size, "half").gap_percent, 2, 1e-9);
  EXPECT_NEAR(entry(size, "half").gap_error, 1, 1e-9);
  EXPECT_NEAR(entry(size, "half").train_loss, 3.07, 1e-9);
  EXPECT_NEAR(entry(size, "third").gap_percent, 10, 1e-9);
  EXPECT_TRUE(std::isnan(entry(size, "third").gap_error));
  EXPECT_NEAR(size.noise_percent, 100 * 2.0 / 3.0, 1e-9);
  // Runs join comparisons of the same settings.
  const League joined =
      make_league({runs, add("a", {.losses = {{"bf16", {2.0, 4.0}}, {"bad", {2.1, 4.2}}}})}, knowledge());
  ASSERT_EQ(joined.sizes.size(), 1u);
  EXPECT_EQ(joined.sizes[0].entries.size(), 4u);
  write_runs(directory_.path() / "longer", {.steps = 200, .losses = losses});
  expect_refusal({runs, directory_.path() / "longer"}, "train.steps = 100 and 200");
}

TEST_F(LeagueTest, WhatCanNotBeComparedIsRefused) {
  const fs::path a = add("a", {.losses = kLosses});
  expect_refusal({}, "--compare");
  expect_refusal({directory_.path()}, "neither compare.json nor completed runs");
  expect_refusal({a, add("b", {.data = "data/b", .losses = kLosses})}, "data.dir = data/a and data/b");
  expect_refusal({a, add("c", {.steps = 200, .losses = kLosses})}, "train.steps = 100 and 200");
  expect_refusal({a, add("d", {.baseline = "half", .losses = kLosses})}, "baselines");
  expect_refusal({a, add("e", {.losses = {{"bf16", {2.0, 4.5}}}})}, "different results");
  const fs::path f = add("f", {.losses = kLosses});
  write_text(a / "half-s1" / "run.json", R"({"recipe_text": "one"})");
  write_text(f / "half-s1" / "run.json", R"({"recipe_text": "two"})");
  expect_refusal({a, f}, "not the same");
}

TEST_F(LeagueTest, ThePageAndTheDrawingAreWellFormedAndNeedNoNetwork) {
  Losses losses = kLosses;
  losses["nan"] = {nullptr, nullptr};
  const League league =
      make_league({add("a", {.losses = losses}), add("b", {.width = 128, .losses = kLosses})}, knowledge());
  write_league(league, directory_.path() / "out");
  for (const char* file : {"league.html", "league.svg"}) {
    SCOPED_TRACE(file);
    const std::string page = read_text(directory_.path() / "out" / file);
    std::vector<Element> elements;
    ASSERT_NO_THROW(elements = parse_markup(page));
    std::size_t points = 0;
    for (const Element& element : elements) {
      EXPECT_FALSE(element.name == "link" || element.name == "img" || element.name == "image");
      for (const auto& [name, value] : element.attributes) {
        EXPECT_FALSE(name == "src" || name == "href") << value;
      }
      points += element.name == "circle";
    }
    EXPECT_GE(points, 8u + 6u);  // a point a recipe in each chart, one a row
    EXPECT_NE(page.find("third"), std::string::npos);
  }
  const auto json = nlohmann::json::parse(read_text(directory_.path() / "out" / "league.json"));
  EXPECT_EQ(json["sizes"].size(), 2u);
  EXPECT_EQ(json["sizes"][0]["entries"][0]["recipe"], "bf16");
  EXPECT_TRUE(json["sizes"][0]["entries"].back()["gap_percent"].is_null());
}

TEST_F(LeagueTest, TheMarkdownTableHasARowForEveryRecipe) {
  const League league = make_league({add("a", {.losses = kLosses})}, knowledge());
  const std::string text = league_markdown(league);
  for (const auto& [recipe, losses] : kLosses) EXPECT_NE(text.find("| " + recipe + " |"), std::string::npos) << recipe;
  EXPECT_NE(text.find("| half | 1, 2 | 3.0700 | 3.0700 | +2.00 | 1.00 | 0.500 | 150 | yes |"), std::string::npos)
      << text;
  EXPECT_NE(league_headline(league).find("half is closest to bf16 (+2.00 ± 1.00 %)"), std::string::npos);
}

}  // namespace
}  // namespace nibble
