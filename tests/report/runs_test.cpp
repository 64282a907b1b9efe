#include "nibble/report/runs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/error.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

class Runs : public testing::Test {
 protected:
  TemporaryDirectory directory_;
};

TEST_F(Runs, LoadAComparison) {
  write_text(directory_.path() / "compare.json", R"({"baseline": "bf16", "noise_percent": null, "seeds": [1, 2],
    "runs": [{"name": "bf16-s1", "dir": "bf16-s1", "recipe": "bf16", "seed": 1, "train_loss": 3.0, "val_loss": 3.1,
              "gap_percent": 0, "tokens_per_second": 10, "clamped_share": null,
              "quality": {"fprop.x": {"snr_db": null}}}], "config_text": "a = 1"})");
  const CompareLog compare = load_compare(directory_.path());
  EXPECT_EQ(compare.baseline, "bf16");
  EXPECT_TRUE(std::isnan(compare.noise_percent));
  EXPECT_EQ(compare.seeds, (std::vector<std::uint64_t>{1, 2}));
  ASSERT_EQ(compare.runs.size(), 1u);
  EXPECT_EQ(compare.runs[0].val_loss, 3.1);
  EXPECT_EQ(compare.runs[0].quality[0].snr_db, INFINITY);
  write_text(directory_.path() / "compare.json", "{}");
  EXPECT_NE(message_of([&] { load_compare(directory_.path()); }).find("'runs' is missing"), std::string::npos);
}

}  // namespace
}  // namespace nibble
