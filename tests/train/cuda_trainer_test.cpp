// Runs on the GPU against runs on the CPU, and runs by CUDA graphs against runs without.
#include <algorithm>
#include <cmath>

#include "nibble/io/run_log.h"
#include "nibble/tensor/device.h"
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

constexpr int kGraphSteps = 14;

/// Two micro-batches a step, in a model that every recipe and cuDNN take; some steps are measured, so without graphs.
TrainConfig config_for_graphs(const fs::path& folder) {
  TrainConfig config = small_config(write_small_data(folder), kGraphSteps);
  config.device = Device::Cuda;
  config.model.width = config.model.ffn = 128;
  config.model.seq = 64;
  config.quality_every = 5;
  config.checkpoint_every = 0;
  return config;
}

void expect_same_training(const fs::path& a, const fs::path& b) {
  EXPECT_EQ(metrics_without_rates(a), metrics_without_rates(b));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(read_file(newest_checkpoint(a).value() / file) == read_file(newest_checkpoint(b).value() / file))
        << file << " differs";
  }
}

class CudaGraphsOf : public testing::TestWithParam<const char*> {};

TEST_P(CudaGraphsOf, GiveTheBitsOfARunWithoutThemAndOfOneThatIsResumed) {
  NIBBLE_NEEDS_GPU();
  TemporaryDirectory folder;
  TrainConfig config = config_for_graphs(folder.path());
  Recipe recipe = recipe_for_test(GetParam());
  if (recipe.stages.size() > 1) recipe.stages[1].from = 0.5;
  for (Stage& stage : recipe.stages) {
    for (LinearRecipe& linear : stage.linear) {  // chosen amid the run: other products from then on
      linear.outlier_channels.multiple = 8;
      linear.outlier_channels.first_step = 2;
      linear.outlier_channels.last_step = 8;
    }
  }
  ASSERT_TRUE(train(config, recipe, folder.path() / "launches", Resume::No, kNeverStop, {}));
  config.cuda_graphs = true;
  ASSERT_TRUE(train(config, recipe, folder.path() / "graphs", Resume::No, kNeverStop, {}));
  expect_same_training(folder.path() / "launches", folder.path() / "graphs");

  const fs::path parts = folder.path() / "parts";
  EXPECT_FALSE(train_until(4, config, recipe, parts));
  config.cuda_graphs = false;
  EXPECT_FALSE(train_until(6, config, recipe, parts));
  config.cuda_graphs = true;
  ASSERT_TRUE(train(config, recipe, parts, Resume::Required, kNeverStop, {}));
  expect_same_training(folder.path() / "launches", parts);
}

INSTANTIATE_TEST_SUITE_P(Recipes, CudaGraphsOf,
                         testing::Values("bf16", "recipes/ablations/wang2025-fused.toml", "nvfp4", "quartet2",
                                         "zhou2025", "tetrajet2"),
                         [](const auto& info) {
                           std::string name = fs::path(info.param).stem().string();
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Every pass overwrites the gradients, whose sum is that of dist/ordered_sum.h.
TEST(CudaOrderedSums, AreTheSameBitsTwiceWithGraphsAndWhenResumed) {
  NIBBLE_NEEDS_GPU();
  for (const DType gradients : {DType::F32, DType::BF16}) {
    TemporaryDirectory folder;
    TrainConfig config = config_for_graphs(folder.path());
    config.batch = 6;
    config.deterministic = true;
    config.gradients = gradients;
    const Recipe recipe = recipe_for_test("quartet2");
    ASSERT_TRUE(train(config, recipe, folder.path() / "first", Resume::No, kNeverStop, {}));
    ASSERT_TRUE(train(config, recipe, folder.path() / "second", Resume::No, kNeverStop, {}));
    expect_same_training(folder.path() / "first", folder.path() / "second");
    config.cuda_graphs = true;
    EXPECT_FALSE(train_until(5, config, recipe, folder.path() / "graphs"));
    ASSERT_TRUE(train(config, recipe, folder.path() / "graphs", Resume::Required, kNeverStop, {}));
    expect_same_training(folder.path() / "first", folder.path() / "graphs");
    config.deterministic = false;
    ASSERT_TRUE(train(config, recipe, folder.path() / "as-they-come", Resume::No, kNeverStop, {}));
    const std::vector<StepRecord> ordered = load_run(folder.path() / "first").steps;
    const std::vector<StepRecord> as_they_come = load_run(folder.path() / "as-they-come").steps;
    EXPECT_EQ(ordered[0].loss, as_they_come[0].loss);
    EXPECT_NEAR(ordered[0].grad_norm, as_they_come[0].grad_norm,
                (gradients == DType::F32 ? 1e-6 : 1e-3) * as_they_come[0].grad_norm);
  }
}

TEST(CudaGraphs, GiveTheSameBitsWhereBlocksAreComputedAgainAndWeightsAreInHalf) {
  NIBBLE_NEEDS_GPU();
  TemporaryDirectory folder;
  TrainConfig config = config_for_graphs(folder.path());
  config.recompute = Recompute::Block;
  config.optimizer = OptimizerKind::AdamWFp8;
  config.gradients = DType::BF16;
  const Recipe recipe = recipe_for_test("nvfp4");
  for (const bool graphs : {false, true}) {
    config.cuda_graphs = graphs;
    ASSERT_TRUE(train(config, recipe, folder.path() / (graphs ? "graphs" : "launches"), Resume::No, kNeverStop, {}));
  }
  expect_same_training(folder.path() / "launches", folder.path() / "graphs");
}

// Weights and batch stay the same, so that only the random numbers tell the steps apart.
TEST(CudaGraphs, AreMadeOnceAPieceAndRoundByOtherNumbersInEachStep) {
  NIBBLE_NEEDS_GPU();
  TemporaryDirectory folder;
  const LlamaConfig config = config_for_graphs(folder.path()).model;
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(2 * config.seq));
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * 31 % kSmallVocab);
  const Tensor batch = Tensor::of(tokens.data(), {2, config.seq});
  const auto all = static_cast<std::int64_t>(2 * tokens.size());
  std::vector<std::vector<double>> gradients[2];
  for (const bool graphs : {false, true}) {
    Llama model(config, recipe_for_test("quartet2"), 3, DType::BF16, Device::Cuda);
    model.set_work_graphs(graphs);
    for (std::uint32_t step = 1; step <= 6; ++step) {
      model.prepare(step, false);
      for (const std::int64_t first : {std::int64_t{0}, all / 2}) {
        model.forward_backward({batch, batch}, 1.0 / static_cast<double>(all), step, first, first == 0, false, all);
      }
      const OwnedTensor gradient = copy_to(model.flat_grads(), Device::Cpu);
      gradients[graphs].push_back(testing_support::doubles(gradient));
    }
    // The blocks forward and backward and the head, for the first micro-batch and for later ones.
    EXPECT_EQ(model.graphs_instantiated(), graphs ? 2 * (2 * config.layers + 1) : 0);
  }
  for (std::size_t step = 0; step < gradients[0].size(); ++step) {
    EXPECT_TRUE(gradients[1][step] == gradients[0][step]) << "step " << step + 1;
    EXPECT_FALSE(step > 0 && gradients[1][step] == gradients[1][step - 1]) << "step " << step + 1;
  }
}

}  // namespace
}  // namespace nibble
