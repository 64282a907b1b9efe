#include "nibble/scaling/precision_map.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "nibble/scaling/law_file.h"
#include "tests/scaling/quartet_runs.h"

namespace nibble {
namespace {

const Efficiency kQuartet{0.6418, 0.9435};

TEST(PrecisionMap, DefaultSpeedupsAreThePapers) {
  const std::vector<Precision> all = default_precisions();
  const std::vector<Precision> expected = {
      {"FP8:FP8", 1, 1, 1}, {"FP4:FP8", 2, 1, 1.2}, {"FP8:FP4", 1, 2, 1.5}, {"FP4:FP4", 2, 2, 2}};
  ASSERT_EQ(all.size(), expected.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].name, expected[i].name);
    EXPECT_DOUBLE_EQ(all[i].forward, expected[i].forward);
    EXPECT_DOUBLE_EQ(all[i].backward, expected[i].backward);
    EXPECT_DOUBLE_EQ(all[i].training, expected[i].training);
    EXPECT_EQ(all[i].has_n, expected[i].forward > 1);
    EXPECT_EQ(all[i].has_d, expected[i].backward > 1);
  }
}

TEST(PrecisionMap, EveryCellIsTheBestOfItsFourLosses) {
  const ScalingLaw law = load_law(law_folder() / "quartet.toml").law;
  const PrecisionMap map = map_precisions(law, kQuartet, default_precisions(), map_params(), map_ratios());
  ASSERT_EQ(map.cells.size(), map_params().size());
  for (std::size_t r = 0; r < map.cells.size(); ++r) {
    ASSERT_EQ(map.cells[r].size(), map_ratios().size());
    for (std::size_t c = 0; c < map.cells[r].size(); ++c) {
      const double N = map.params[r];
      const double D = map.ratios[c] * N;
      const double expected[] = {predict_loss(law, N, D), predict_loss(law, 2 * N, D * 1.2 / 2, {kQuartet.n, 1}),
                                 predict_loss(law, N, D * 1.5, {1, kQuartet.d}), predict_loss(law, 2 * N, D, kQuartet)};
      for (int p = 0; p < 4; ++p) EXPECT_NEAR(map.cells[r][c].losses[static_cast<std::size_t>(p)], expected[p], 1e-12);
      EXPECT_EQ(map.cells[r][c].best, static_cast<std::size_t>(std::min_element(expected, expected + 4) - expected));
    }
  }
}

TEST(PrecisionMap, FourBitForwardWinsWhereTrainingIsLong) {
  const ScalingLaw law = load_law(law_folder() / "quartet.toml").law;
  const PrecisionMap map = map_precisions(law, kQuartet, default_precisions(), map_params(), map_ratios());
  for (const auto& row : map.cells) {
    EXPECT_EQ(map.precisions[row.front().best].name, "FP8:FP4");
    EXPECT_EQ(map.precisions[row.back().best].name, "FP4:FP4");
  }
}

TEST(PrecisionMap, WithoutSpeedupALossyPrecisionIsNeverBest) {
  const ScalingLaw law = load_law(law_folder() / "quartet.toml").law;
  std::vector<Precision> precisions = default_precisions();
  for (const char* name : {"FP4:FP8", "FP8:FP4", "FP4:FP4"}) set_speedup(precisions, std::string(name) + "=1/1");
  for (const auto& row : map_precisions(law, kQuartet, precisions, map_params(), map_ratios()).cells) {
    for (const auto& cell : row) EXPECT_EQ(cell.best, 0u);
  }
}

TEST(PrecisionMap, SpeedupsAreSetByName) {
  std::vector<Precision> precisions = default_precisions();
  set_speedup(precisions, "FP4:FP4=2/1.5");
  EXPECT_DOUBLE_EQ(precisions[3].training, 3 / (1 / 2.0 + 2 / 1.5));
  set_speedup(precisions, "FP4:FP4=2/1.5/1.6");
  EXPECT_DOUBLE_EQ(precisions[3].forward, 2);
  EXPECT_DOUBLE_EQ(precisions[3].backward, 1.5);
  EXPECT_DOUBLE_EQ(precisions[3].training, 1.6);
  EXPECT_TRUE(precisions[3].has_n);
}

TEST(PrecisionMap, SpeedupsThatMakeNoSenseAreRefused) {
  std::vector<Precision> precisions = default_precisions();
  EXPECT_USER_ERROR(set_speedup(precisions, "FP4:FP4"), "write it as");
  EXPECT_USER_ERROR(set_speedup(precisions, "FP4:FP44=1/1"), "did you mean 'FP4:FP4'");
  for (const char* wrong : {"FP4:FP4=", "FP4:FP4=2", "FP4:FP4=2/", "FP4:FP4=2/0", "FP4:FP4=2/x", "FP4:FP4=1/1/1/1"}) {
    EXPECT_USER_ERROR(set_speedup(precisions, wrong), "two or three positive numbers");
  }
}

}  // namespace
}  // namespace nibble
