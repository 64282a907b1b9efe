#include "nibble/report/table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "nibble/io/format.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(Table, AlignsByDisplayWidth) {
  const TextTable table{{{"name", Align::Left}, {"loss"}}, {{"größer", "3.2"}, {"日本", "12.25"}, {"a", "-"}}};
  EXPECT_EQ(format_table(table),
            "name     loss\n"
            "------  -----\n"
            "größer    3.2\n"
            "日本    12.25\n"
            "a           -\n");
}

TEST(Table, HasNoTrailingBlanks) {
  const TextTable table{{{"a", Align::Left}, {"b", Align::Left}}, {{"x", ""}, {"", "long"}}};
  for (const std::string& line : lines_of(format_table(table))) EXPECT_FALSE(line.ends_with(' ')) << line;
}

TEST(Table, RefusesARowOfAnotherLength) { EXPECT_THROW(format_table({{{"a"}, {"b"}}, {{"1"}}}), InternalError); }

Comparison comparison() {
  std::vector<RunResult> results;
  for (std::uint64_t seed : {1, 2}) {
    for (const char* recipe : {"bf16", "wang2025"}) {
      RunResult one;
      one.name = one.recipe = recipe;
      one.seed = seed;
      one.train_loss = 3.9;
      one.val_loss = (recipe[0] == 'b' ? 4.0 : 4.04) + 0.02 * static_cast<double>(seed - 1);
      one.tokens_per_second = 1850;
      if (recipe[0] == 'w') {
        one.clamped_share = 0.01;
        one.quality[0].snr_db = 18.24;
        one.quality[1].snr_db = INFINITY;
      }
      results.push_back(one);
    }
  }
  return compare_runs({}, results);
}

TEST(CompareTable, HasARowForEveryRecipeAndAlignedColumns) {
  const std::vector<std::string> lines = lines_of(format_compare_table(comparison()));
  ASSERT_GE(lines.size(), 6u);
  EXPECT_TRUE(lines[0].starts_with("recipe    seeds  train loss  val loss  gap %  tokens/s  clamped %")) << lines[0];
  EXPECT_TRUE(lines[0].ends_with("FA     FW  DG  DW  GG  GX")) << lines[0];
  for (std::size_t i = 1; i < 4; ++i) EXPECT_EQ(display_width(lines[i]), display_width(lines[0])) << lines[i];
  EXPECT_TRUE(lines[2].starts_with("bf16      1, 2       3.9000    4.0100   0.00     1,850          -")) << lines[2];
  EXPECT_TRUE(lines[3].starts_with("wang2025  1, 2       3.9000    4.0500  +1.00     1,850       1.00  18.2  exact"))
      << lines[3];
}

TEST(CompareTable, StatesTheNoiseInTheUnitOfTheGap) {
  EXPECT_NE(format_compare_table(comparison()).find("noise: 2 seeds of bf16 differ by 0.50 % in validation loss"),
            std::string::npos)
      << format_compare_table(comparison());
}

TEST(CompareTable, SaysWhenTheNoiseIsNotKnown) {
  RunResult one;
  one.name = one.recipe = "bf16";
  EXPECT_NE(format_compare_table(compare_runs({}, {one})).find("noise: not known, bf16 was run with one seed"),
            std::string::npos);
  one.recipe = "fp4";
  EXPECT_NE(format_compare_table(compare_runs({}, {one})).find("noise: not known, there is no baseline"),
            std::string::npos);
}

}  // namespace
}  // namespace nibble
