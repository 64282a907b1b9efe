#include "nibble/scaling/points.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/scaling/quartet_runs.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

double known_model(const std::string& name) {
  if (name == "tiny") return 1000;
  throw UserError("there is no model '" + name + "'");
}

std::vector<LossPoint> read(const fs::path& source) { return read_loss_points({source}, known_model).points; }

void expect_the_two_points(const std::vector<LossPoint>& points) {
  ASSERT_EQ(points.size(), 2u);
  EXPECT_EQ(points[0].recipe, "bf16");
  EXPECT_EQ(points[0].params, 30.5e6);
  EXPECT_EQ(points[0].tokens, 3e9);
  EXPECT_EQ(points[0].loss, 3.25);
  EXPECT_EQ(points[1].recipe, "my fp4");
  EXPECT_EQ(points[1].params, 1000);
  EXPECT_EQ(points[1].tokens, 20000);
  EXPECT_EQ(points[1].loss, 5);
}

TEST(Points, ReadTheSameFromCsvTsvAndJson) {
  TemporaryDirectory folder;
  expect_the_two_points(read(folder.write("a.csv",
                                          "# a comment\r\nRecipe, note, params, model, tokens, ratio, loss\r\n\r\n"
                                          "bf16,x,30.5M,,3B,,3.25\r\n\"my fp4\",,,tiny,,20,5")));
  expect_the_two_points(read(folder.write("a.tsv",
                                          "recipe\tparams\tmodel\ttokens\tratio\tval_loss\n"
                                          "bf16\t3.05e7\t\t3000000000\t\t3.25\nmy fp4\t\ttiny\t\t20\t5.0\n")));
  expect_the_two_points(
      read(folder.write("a.json", R"([{"recipe": "bf16", "params": 30.5e6, "tokens": "3G", "loss": 3.25},
                    {"recipe": "my fp4", "model": "tiny", "ratio": 20, "val_loss": 5, "tokens": null}])")));
}

TEST(Points, CountsTakeSuffixes) {
  EXPECT_EQ(parse_count("30482560"), 30482560);
  EXPECT_EQ(parse_count("1.5k"), 1500);
  EXPECT_EQ(parse_count("7B"), 7e9);
  EXPECT_EQ(parse_count("7G"), 7e9);
  EXPECT_EQ(parse_count("2e3M"), 2e9);
  EXPECT_EQ(parse_count("0.1T"), 1e11);
  for (const char* wrong : {"", "x", "-1", "0", "3m", "3MB", "nan", "inf", "1e400", " 1", "1 "}) {
    EXPECT_TRUE(std::isnan(parse_count(wrong))) << wrong;
  }
}

TEST(Points, RefusalsNameFileAndLine) {
  TemporaryDirectory folder;
  const auto expect = [&](const std::string& name, const std::string& text, const std::string& message) {
    const std::string path = folder.write(name, text);
    SCOPED_TRACE(text);
    EXPECT_USER_ERROR((void)read(path), path + message);
  };
  expect("a.csv", "# c\nrecipe,params,tokens,los\n",
         ":2: the column 'loss' or 'val_loss' is missing; did you mean 'los'?");
  expect("a.csv", "recipe,tokens,loss\n", ":1: the column 'params' or 'model' is missing");
  expect("a.csv", "recipe,model,loss\n", ":1: the column 'tokens' or 'ratio' is missing");
  expect("a.csv", "params,tokens,loss\n", ":1: the column 'recipe' is missing");
  expect("a.csv", "recipe,params,tokens,loss\nr,1,1,2\n\nr,1,1,-2\n",
         ":4: column 'loss': '-2' is not a positive number");
  expect("a.csv", "recipe,params,tokens,loss\nr,1,1,nan\n", ":2: column 'loss'");
  expect("a.csv", "recipe,params,tokens,loss\nr,1,0,2\n", ":2: column 'tokens'");
  expect("a.csv", "recipe,params,tokens,loss\nr,1,,2\n", ":2: the column 'tokens' is empty");
  expect("a.csv", "recipe,params,tokens,loss\nr,1,1\n", ":2: 3 cells under a header of 4");
  expect("a.csv", "recipe,model,tokens,loss\nr,huge,1,2\n", ":2: column 'model': there is no model 'huge'");
  expect("a.json", R"([{"recipe": "r", "params": 1, "tokens": 1, "loss": 2}, {"recipe": "r"}])",
         ": entry 2: the column 'params' or 'model' is missing");
  expect("a.json", R"([{"recipe": "r", "params": 1, "tokens": 1, "loss": 0}])", ": entry 1: column 'loss': '0'");
  expect("a.json", R"({"recipe": "r"})", ": must be an array");
  expect("a.txt", "", ": a table must be .csv");
}

void write_run(const fs::path& run, const std::string& recipe, double loss, bool complete = true) {
  fs::create_directories(run);
  nlohmann::json info = {{"recipe", recipe}, {"seed", 1}, {"parameters", 5000}, {"non_embedding_parameters", 4000}};
  std::ofstream(run / "run.json") << info;
  std::ofstream metrics(run / "metrics.jsonl");
  for (int step = 1; step <= 10; ++step) {
    nlohmann::json line = {{"step", step}, {"tokens", 64 * step}, {"loss", 9}};
    if (step % 5 == 0) line["val_loss"] = std::isnan(loss) ? nlohmann::json() : nlohmann::json(loss + 10 - step);
    metrics << line << "\n";
  }
  if (complete) std::ofstream(run / "result.json") << "{}";
}

TEST(Points, RunsComparisonsAndFoldersOfRunsGiveTheirLastValidationLoss) {
  TemporaryDirectory folder;
  write_run(folder / "sweep/a", "bf16", 4);
  write_run(folder / "sweep/b/fp4-s1", "fp4", 5);
  write_run(folder / "sweep/b/bf16-s1", "bf16", 4.5);
  write_run(folder / "sweep/b/elsewhere", "other", 7);
  std::ofstream(folder / "sweep/b/compare.json")
      << R"({"runs": [{"name": "x", "dir": "bf16-s1"}, {"name": "y", "dir": "fp4-s1"}]})";
  const std::vector<LossPoint> one = read(folder / "sweep/a");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].recipe, "bf16");
  EXPECT_EQ(one[0].params, 4000);
  EXPECT_EQ(one[0].tokens, 640);
  EXPECT_EQ(one[0].loss, 4);
  const std::vector<LossPoint> all = read(folder / "sweep");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[1].loss, 4.5);
  EXPECT_EQ(all[2].recipe, "fp4");
  EXPECT_EQ(recipes_of(all), (std::vector<std::string>{"bf16", "fp4"}));
  EXPECT_EQ(points_of(all, "bf16").size(), 2u);
  const LossPoints twice = read_loss_points({folder / "sweep/a", folder / "sweep"}, known_model);
  EXPECT_EQ(twice.points.size(), 3u) << "a run named twice counts once";
}

TEST(Points, RunsThatStoppedOrDivergedAreLeftOutWithANote) {
  TemporaryDirectory folder;
  write_run(folder / "a", "bf16", 4);
  write_run(folder / "b", "fp4", 4, false);
  write_run(folder / "c", "fp4", std::nan(""));
  const LossPoints read = read_loss_points({folder.path()}, known_model);
  EXPECT_EQ(read.points.size(), 1u);
  ASSERT_EQ(read.notes.size(), 2u);
  EXPECT_NE(read.notes[0].find("not complete"), std::string::npos);
  EXPECT_NE(read.notes[1].find("no finite validation loss"), std::string::npos);
}

TEST(Points, SourcesThatAreNothingAreRefused) {
  TemporaryDirectory folder;
  EXPECT_USER_ERROR((void)read(folder / "none"), "there is no '");
  EXPECT_USER_ERROR((void)read(folder.path()), "neither a run");
}

TEST(Points, ThePublishedTablesHoldTheConfigurationsOfThePaper) {
  const std::vector<LossPoint> points = quartet_runs(true);
  EXPECT_EQ(points.size(), 151u + 45u);
  for (const LossPoint& p : points) {
    EXPECT_EQ(std::fmod(p.tokens, 512 * 512), 0) << p.recipe;
    EXPECT_GT(p.tokens / p.params, 24);
  }
  const auto loss = [&](const char* recipe, double params, double nominal_ratio) {
    for (const LossPoint& p : points) {
      const double nominal = params == k30M ? 30e6 : params == k50M ? 50e6 : params == k100M ? 100e6 : 200e6;
      if (p.recipe == recipe && p.params == params && std::abs(p.tokens / nominal / nominal_ratio - 1) < 0.001)
        return p.loss;
    }
    return 0.0;
  };
  EXPECT_EQ(loss("bf16", k30M, 25), 3.41571);
  EXPECT_EQ(loss("bf16", k30M, 800), 3.0609);
  EXPECT_EQ(loss("quartet", k50M, 200), 3.10953);
  EXPECT_EQ(loss("bf16", k100M, 400), 2.79347);
  EXPECT_EQ(loss("quartet", k200M, 100), 2.81429);
  EXPECT_EQ(loss("quest-forward", k30M, 50), 3.36955);
  EXPECT_EQ(loss("sr-backward", k30M, 100), 3.22104);
}

}  // namespace
}  // namespace nibble
