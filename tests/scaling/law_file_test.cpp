#include "nibble/scaling/law_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "nibble/io/data_file.h"
#include "tests/scaling/quartet_runs.h"

namespace nibble {
namespace {

ScalingFit some_fit() {
  std::mt19937 rng(9);
  std::uniform_real_distribution<double> u(0.01, 1);
  const auto interval = [&] {
    const double low = u(rng);
    return Interval{low, low + u(rng)};
  };
  ScalingFit fit;
  fit.title = "a \"quoted\" title with \\ and\nnewline";
  fit.baseline = "b f";
  fit.law = {u(rng) * 1e7, u(rng), u(rng) * 1e30, u(rng), u(rng), u(rng)};
  for (Interval& i : fit.intervals) i = interval();
  fit.points = 11;
  fit.rms = u(rng);
  fit.objective = u(rng) * 1e-6;
  fit.params = {1e6, 1e9};
  fit.tokens = {2e8, 3e11};
  fit.bootstrap = 200;
  fit.seed = 12345678901;
  fit.recipes.push_back({"my.recipe v2", Passes::Both, {u(rng), u(rng)}, interval(), interval(), 5, u(rng)});
  fit.recipes.push_back({"my-recipe-v2", Passes::ForwardOnly, {u(rng), 1}, interval(), {}, 3, u(rng)});
  fit.recipes.push_back({"größe", Passes::BackwardOnly, {1, u(rng)}, {}, {}, 2, u(rng)});
  return fit;
}

TEST(LawFile, GivesBackEveryFigureBitForBit) {
  const ScalingFit fit = some_fit();
  const ScalingFit back = parse_law(law_to_toml(fit), "x.toml");
  EXPECT_EQ(back.title, fit.title);
  EXPECT_EQ(back.baseline, fit.baseline);
  EXPECT_EQ(law_constants(back.law), law_constants(fit.law));
  for (std::size_t i = 0; i < fit.intervals.size(); ++i) {
    EXPECT_EQ(back.intervals[i].low, fit.intervals[i].low);
    EXPECT_EQ(back.intervals[i].high, fit.intervals[i].high);
  }
  EXPECT_EQ(back.points, fit.points);
  EXPECT_EQ(back.rms, fit.rms);
  EXPECT_EQ(back.objective, fit.objective);
  EXPECT_EQ(back.params.high, fit.params.high);
  EXPECT_EQ(back.tokens.low, fit.tokens.low);
  EXPECT_EQ(back.bootstrap, fit.bootstrap);
  EXPECT_EQ(back.seed, fit.seed);
  ASSERT_EQ(back.recipes.size(), fit.recipes.size());
  for (const RecipeFit& r : fit.recipes) {
    SCOPED_TRACE(r.recipe);
    const RecipeFit& b = back.recipe(r.recipe);
    EXPECT_EQ(b.passes, r.passes);
    EXPECT_EQ(b.efficiency.n, r.efficiency.n);
    EXPECT_EQ(b.efficiency.d, r.efficiency.d);
    EXPECT_EQ(b.n.known(), r.n.known());
    EXPECT_EQ(b.d.known(), r.d.known());
    if (r.d.known()) {
      EXPECT_EQ(b.d.low, r.d.low);
    }
    EXPECT_EQ(b.points, r.points);
    EXPECT_EQ(b.rms, r.rms);
  }
}

TEST(LawFile, LeavesOutIntervalsThatAreNotKnown) {
  ScalingFit fit = some_fit();
  fit.intervals[0] = {};
  fit.intervals[1] = {0, std::numeric_limits<double>::infinity()};
  const std::string text = law_to_toml(fit);
  EXPECT_EQ(text.find("A_low"), std::string::npos);
  EXPECT_EQ(text.find("alpha_low"), std::string::npos);
  EXPECT_NE(text.find("B_low"), std::string::npos);
  EXPECT_FALSE(parse_law(text, "x.toml").intervals[1].known());
}

TEST(LawFile, ThePublishedLawsRoundToThePaper) {
  const ScalingLaw law = load_law(law_folder() / "quartet.toml").law;
  EXPECT_NEAR(law.A, 1.52e5, 0.005e5);
  EXPECT_NEAR(law.alpha, .589, .0005);
  EXPECT_NEAR(law.B, 5.25e5, 0.005e5);
  EXPECT_NEAR(law.beta, .544, .0005);
  EXPECT_NEAR(law.E, 1.35, .005);
  EXPECT_NEAR(law.gamma, .274, .0005);
  const ScalingLaw refit = load_law(law_folder() / "quartet-refit.toml").law;
  EXPECT_NEAR(refit.A, 127444.69, .005);
  EXPECT_NEAR(refit.E, 1.3408461, 5e-8);
}

TEST(LawFile, RefusalsNameFileLineAndKey) {
  const std::string law = "[law]\nA = 1.0\nalpha = 0.5\nB = 1.0\nbeta = 0.5\nE = 1.0\ngamma = 1.0\n";
  EXPECT_NO_THROW((void)parse_law(law, "f.toml"));
  const auto expect = [](const std::string& text, const std::string& message) {
    SCOPED_TRACE(text);
    EXPECT_USER_ERROR((void)parse_law(text, "f.toml"), message);
  };
  expect("[law]\nA = 1.0\n", "'law.alpha': is missing");
  expect("[law]\nA = -1.0\n", "f.toml:2: key 'law.A'");
  expect(law + "C = 1\n", "f.toml:8: key 'law.C': is not known here");
  expect(law + "A_low = 0.5\n", "f.toml:8: key 'law.A_low': needs both A_low and A_high");
  expect(law + "A_low = 2.0\nA_high = 1.0\n", "f.toml:8: key 'law.A_low': is above A_high");
  expect(law + "[recipes.r]\neff_n = 0.5\n", "'recipes.r.eff_d': is missing");
  expect(law + "[recipes.r]\npasses = \"sideways\"\n", "f.toml:9: key 'recipes.r.passes': 'sideways' is not one of");
  expect(law + "[recipes.r]\neff_n = 1\neff_d = 1\n[recipes.s]\nname = \"r\"\neff_n = 1\neff_d = 1\n",
         "another recipe");
  expect("[law", "f.toml:1");
}

TEST(LawFile, DataFilesAreFoundByPathAndUnknownNamesAreRefused) {
  EXPECT_EQ(find_data_file("laws", "some/where", "law"), "some/where");
  EXPECT_EQ(find_data_file("laws", "mine.toml", "law"), "mine.toml");
  EXPECT_USER_ERROR((void)find_data_file("no-such-folder", "x", "law"), "no folder no-such-folder/");
  TemporaryDirectory folder;
  folder.write("first.toml", "");
  EXPECT_EQ(find_data_file(folder.path().string(), "first", "law"), folder / "first.toml");
  EXPECT_USER_ERROR((void)find_data_file(folder.path().string(), "frist", "law"), "did you mean 'first'");
}

}  // namespace
}  // namespace nibble
