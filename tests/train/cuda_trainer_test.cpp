// Runs on the GPU against runs on the CPU.
#include <cmath>

#include "nibble/io/run_log.h"
#include "tests/cuda_testing.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
constexpr int kSteps = 50;

class CudaTrainer : public testing::TestWithParam<const char*> {};

// Fifty steps at a high rate let differences in the last bits grow; where codes differ with them, more.
TEST_P(CudaTrainer, LearnsAsTheCpuDoes) {
  NIBBLE_NEEDS_GPU();
  TemporaryDirectory folder;
  TrainConfig config = small_config(write_small_data(folder.path()), kSteps);
  config.model.ffn = 64;
  const Recipe recipe = recipe_for_test(GetParam());
  std::vector<RunFigures> figures;
  for (const Device device : {Device::Cpu, Device::Cuda}) {
    config.device = device;
    const fs::path run = folder.path() / device_name(device);
    ASSERT_TRUE(train(config, recipe, run, Resume::No, kNeverStop, {}));
    figures.push_back(final_figures(load_run(run)));
  }
  EXPECT_LT(figures[0].val_loss, 3.2) << "nothing was learned";
  EXPECT_NEAR(figures[1].val_loss, figures[0].val_loss, std::string(GetParam()) == "bf16" ? 0.01 : 0.1);
  EXPECT_NEAR(figures[1].train_loss, figures[0].train_loss, std::string(GetParam()) == "bf16" ? 0.01 : 0.1);
}

INSTANTIATE_TEST_SUITE_P(Recipes, CudaTrainer,
                         testing::Values("bf16", "fp8", "fp4-direct", "wang2025", "quartet", "nvfp4", "tetrajet"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace nibble
