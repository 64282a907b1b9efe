// Runs on several ranks: the same bits as on one in the deterministic mode, by every shipped recipe; near them
// otherwise; resumed by other numbers of ranks; stopped and refused together. Ranks are threads here;
// docs/distributed.md says what is tested with processes.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/io/run_log.h"
#include "nibble/train/memory.h"
#include "tests/recipe/shipped_recipes.h"
#include "tests/train/rank_runs.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class DeterministicRanks : public testing_support::ShippedRecipe {};

TEST_P(DeterministicRanks, GiveTheBitsOfOneRank) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  Recipe recipe = recipe_;
  if (recipe.stages.size() > 1) recipe.stages[1].from = 0.5;
  for (Stage& stage : recipe.stages) {
    for (LinearRecipe& linear : stage.linear) {  // chosen amid the run, from what all ranks have seen
      linear.outlier_channels.multiple = 8;
      linear.outlier_channels.first_step = 2;
      linear.outlier_channels.last_step = 3;
    }
  }
  ASSERT_TRUE(train_on(1, config, recipe, folder.path() / "1"));
  for (const auto& [size, zero] : {std::pair{2, 0}, {2, 3}, {3, 1}, {3, 3}, {4, 2}}) {
    SCOPED_TRACE(fmt::format("{} ranks, ZeRO-{}", size, zero));
    config.zero = zero;
    config.gather = size == 3 ? GatherWeights::Step : GatherWeights::Block;
    const fs::path run = folder.path() / fmt::format("{}-{}", size, zero);
    ASSERT_TRUE(train_on(size, config, recipe, run));
    expect_same_run(folder.path() / "1", run);
  }
}

INSTANTIATE_TEST_SUITE_P(AllRecipes, DeterministicRanks, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

TEST(Ranks, KeepTheirBitsWithFp8StatesAndBf16Gradients) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  config.optimizer = OptimizerKind::AdamWFp8;
  config.gradients = DType::BF16;
  const Recipe recipe = recipe_for_test("quartet2");
  ASSERT_TRUE(train_on(1, config, recipe, folder.path() / "1"));
  for (const int size : {2, 3, 6}) {
    for (const int zero : {0, 1, 2, 3}) {
      SCOPED_TRACE(fmt::format("{} ranks, ZeRO-{}", size, zero));
      if (zero > 0 && size > most_sharing_ranks(config.model)) continue;
      config.zero = zero;
      config.gather = size == 2 ? GatherWeights::Step : GatherWeights::Block;
      const fs::path run = folder.path() / fmt::format("{}-{}", size, zero);
      ASSERT_TRUE(train_on(size, config, recipe, run));
      expect_same_run(folder.path() / "1", run);
    }
  }
}

// Four ranks of which two have a pass less, three blocks, so that windows take turns unevenly.
TEST(Ranks, KeepTheirBitsWhereBlocksAreGatheredAndComputedAgain) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  for (const char* name : {"wang2025", "nvfp4", "tetrajet"}) {
    const Recipe recipe = recipe_for_test(name);
    for (const std::int64_t layers : {1, 3}) {
      config.model.layers = layers;
      config.zero = 0;
      const fs::path one = folder.path() / fmt::format("{}-{}", name, layers);
      ASSERT_TRUE(train_on(1, config, recipe, one));
      config.zero = 3;
      for (const Recompute level : {Recompute::None, Recompute::BlockParts, Recompute::Block}) {
        SCOPED_TRACE(fmt::format("{}, {} blocks, recompute {}", name, layers, recompute_name(level)));
        config.recompute = level;
        const fs::path run = folder.path() / fmt::format("{}-{}-{}", name, layers, recompute_name(level));
        ASSERT_TRUE(train_on(4, config, recipe, run));
        expect_same_run(one, run);
      }
      config.recompute = Recompute::None;
    }
  }
}

TEST(Ranks, TakeTheMemoryThatWasPredicted) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 1);
  config.model.layers = 4;
  config.model.width = config.model.ffn = 256;
  config.model.seq = config.batch = 8;  // the parameters outweigh the activations
  config.quality_every = 0;
  const Recipe recipe = recipe_for_test("bf16");
  for (const auto& [optimizer, gradients] :
       {std::pair{OptimizerKind::AdamW, DType::F32}, {OptimizerKind::AdamWFp8, DType::BF16}}) {
    for (const auto& [deterministic, exchange] : {std::pair{true, ExchangeFormat::Stored},
                                                  {false, ExchangeFormat::Stored},
                                                  {false, ExchangeFormat::Bf16},
                                                  {false, ExchangeFormat::Fp8}}) {
      for (const bool tied : {false, true}) {
        for (const auto& [zero, gather] : {std::pair{0, GatherWeights::Block},
                                           {1, GatherWeights::Block},
                                           {2, GatherWeights::Block},
                                           {3, GatherWeights::Step},
                                           {3, GatherWeights::Block}}) {
          config.optimizer = optimizer;
          config.gradients = gradients;
          config.deterministic = deterministic;
          config.exchange = exchange;
          config.model.tied_head = tied;
          config.zero = zero;
          config.gather = gather;
          SCOPED_TRACE(fmt::format("ZeRO-{}: {}", zero, to_toml(config)));
          const fs::path run = folder.path() / "run";
          ASSERT_TRUE(train_on(4, config, recipe, run));
          const nlohmann::json result = nlohmann::json::parse(read_file(run / "result.json"));
          const MemoryPlan plan = plan_memory(memory_question(config, recipe, 4));
          EXPECT_NEAR(result["memory_peak_bytes"].get<double>() / plan.tensors(), 1, 0.05) << memory_table(plan);
          fs::remove_all(run);
        }
      }
    }
  }
}

TEST(Ranks, GoOnFromWhatOtherNumbersOfRanksWrote) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 8);
  for (const auto& [optimizer, gradients] :
       {std::pair{OptimizerKind::AdamW, DType::F32}, {OptimizerKind::AdamWFp8, DType::BF16}}) {
    config.optimizer = optimizer;
    config.gradients = gradients;
    const Recipe recipe = recipe_for_test("wang2025");
    const fs::path whole = folder.path() / fmt::format("whole-{}", static_cast<int>(optimizer));
    ASSERT_TRUE(train_on(1, config, recipe, whole));
    for (const bool shared : {false, true}) {
      SCOPED_TRACE(shared);
      const fs::path parts = folder.path() / fmt::format("parts-{}-{}", static_cast<int>(optimizer), shared);
      const auto go_on = [&](int ranks, int zero, Resume resume, std::int64_t until = 0) {
        TrainConfig sharing = config;
        if (shared) sharing.zero = zero;
        return train_on(ranks, sharing, recipe, parts, resume, until);
      };
      EXPECT_FALSE(go_on(4, 2, Resume::No, 1));
      EXPECT_FALSE(go_on(1, 0, Resume::Required, 3));
      EXPECT_FALSE(go_on(3, 3, Resume::Required, 6));
      EXPECT_TRUE(go_on(2, 2, Resume::Required));
      expect_same_run(whole, parts);
    }
  }
}

TEST(Ranks, WithoutTheModeDifferInTheLastBitsOfTheSum) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 4);
  config.deterministic = false;
  const Recipe recipe = recipe_for_test("bf16");
  ASSERT_TRUE(train_on(1, config, recipe, folder.path() / "1"));
  ASSERT_TRUE(train(config, recipe, folder.path() / "alone", Resume::No, kNeverStop, {}));
  expect_same_run(folder.path() / "1", folder.path() / "alone");
  const std::vector<StepRecord> one = load_run(folder.path() / "1").steps;
  for (const int size : {2, 4}) {
    const fs::path run = folder.path() / std::to_string(size);
    ASSERT_TRUE(train_on(size, config, recipe, run));
    const std::vector<StepRecord> several = load_run(run).steps;
    ASSERT_EQ(several.size(), one.size());
    EXPECT_EQ(several[0].loss, one[0].loss);  // before the first update
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_NEAR(several[i].loss, one[i].loss, 1e-3);
      EXPECT_NEAR(several[i].grad_norm, one[i].grad_norm, 1e-2 * one[i].grad_norm);
    }
    EXPECT_NEAR(several[0].grad_norm, one[0].grad_norm, 1e-5 * one[0].grad_norm);
  }
}

class ExchangedAs : public testing::TestWithParam<ExchangeFormat> {};

TEST_P(ExchangedAs, GradientsStayNearThoseThatAreStored) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 6);
  config.deterministic = false;
  for (const auto& [optimizer, gradients] :
       {std::pair{OptimizerKind::AdamW, DType::F32}, {OptimizerKind::AdamWFp8, DType::BF16}}) {
    config.optimizer = optimizer;
    config.gradients = gradients;
    config.exchange = ExchangeFormat::Stored;
    const Recipe recipe = recipe_for_test("wang2025");
    const auto run_of = [&](const std::string& name, int size) {
      const fs::path run = folder.path() / fmt::format("{}-{}-{}", name, size, static_cast<int>(optimizer));
      EXPECT_TRUE(train_on(size, config, recipe, run));
      return run;
    };
    const std::vector<StepRecord> stored = load_run(run_of("stored", 3)).steps;
    config.exchange = GetParam();
    const fs::path narrow = run_of("narrow", 3);
    expect_same_run(narrow, run_of("again", 3));
    const std::vector<StepRecord> steps = load_run(narrow).steps;
    ASSERT_EQ(steps.size(), stored.size());
    EXPECT_EQ(steps[0].loss, stored[0].loss);
    const bool fp8 = GetParam() == ExchangeFormat::Fp8;
    // An E4M3 code is off by a 16th at most and by some 2.5 % on average; errors of many elements add up in squares.
    EXPECT_NEAR(steps[0].grad_norm, stored[0].grad_norm, (fp8 ? 1e-2 : 1e-3) * stored[0].grad_norm);
    EXPECT_NE(steps[0].grad_norm, stored[0].grad_norm) << "nothing was rounded";
    for (std::size_t i = 0; i < stored.size(); ++i) {  // at this learning rate steps drift apart
      EXPECT_NEAR(steps[i].loss, stored[i].loss, (fp8 ? 0.03 : 0.01) * static_cast<double>(i + 1));
    }
    EXPECT_EQ(metrics_without_rates(narrow).find("exchange_saturated") != std::string::npos, fp8);
  }
}

INSTANTIATE_TEST_SUITE_P(Narrow, ExchangedAs, testing::Values(ExchangeFormat::Bf16, ExchangeFormat::Fp8),
                         [](const auto& test) { return test.param == ExchangeFormat::Fp8 ? "fp8" : "bf16"; });

class SharedUpdates : public testing::TestWithParam<ExchangeFormat> {};

// Two passes a rank, of one of the four ranks only one.
TEST_P(SharedUpdates, HaveTheBitsOfUpdatesByEveryRankWhereGradientsAreAddedUpAlike) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 4);
  config.deterministic = false;
  config.exchange = GetParam();
  config.batch = 7;
  for (const auto& [optimizer, gradients] :
       {std::pair{OptimizerKind::AdamW, DType::F32}, {OptimizerKind::AdamWFp8, DType::BF16}}) {
    config.optimizer = optimizer;
    config.gradients = gradients;
    const Recipe recipe = recipe_for_test("quartet2");
    const auto run_of = [&](int zero, GatherWeights gather = GatherWeights::Block) {
      config.zero = zero;
      config.gather = gather;
      const fs::path run =
          folder.path() / fmt::format("{}-{}-{}", zero, static_cast<int>(gather), static_cast<int>(optimizer));
      EXPECT_TRUE(train_on(4, config, recipe, run));
      return run;
    };
    const fs::path by_all = run_of(0);
    if (GetParam() != ExchangeFormat::Bf16) {  // in which vectors of pieces stay F32
      EXPECT_TRUE(metrics_without_rates(run_of(1)) == metrics_without_rates(by_all));
    }
    const fs::path by_pieces = run_of(2);
    for (const GatherWeights gather : {GatherWeights::Block, GatherWeights::Step}) {
      EXPECT_TRUE(metrics_without_rates(run_of(3, gather)) == metrics_without_rates(by_pieces));
    }
    // Sums over ranks are added up here, sums of a rank's passes there.
    const std::vector<StepRecord> expected = load_run(by_all).steps;
    const std::vector<StepRecord> steps = load_run(by_pieces).steps;
    ASSERT_EQ(steps.size(), expected.size());
    EXPECT_EQ(steps[0].loss, expected[0].loss);
    const bool fp8 = GetParam() == ExchangeFormat::Fp8;
    const double rounded = fp8 ? 1e-2 : gradients == DType::BF16 || GetParam() == ExchangeFormat::Bf16 ? 2e-3 : 1e-5;
    EXPECT_NEAR(steps[0].grad_norm, expected[0].grad_norm, rounded * expected[0].grad_norm);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_NEAR(steps[i].loss, expected[i].loss, (fp8 ? 0.03 : 0.02) * static_cast<double>(i + 1));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, SharedUpdates,
                         testing::Values(ExchangeFormat::Stored, ExchangeFormat::Bf16, ExchangeFormat::Fp8),
                         [](const auto& test) {
                           return test.param == ExchangeFormat::Stored ? "stored"
                                  : test.param == ExchangeFormat::Fp8  ? "fp8"
                                                                       : "bf16";
                         });

// The factor of each step follows from what saturated in the one before, and a stopped run goes on with it.
TEST(Ranks, AdaptTheFactorOfTheirFp8Gradients) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 6);
  config.deterministic = false;
  config.exchange = ExchangeFormat::Fp8;
  config.exchange_scaling = ExchangeScaling::Auto;
  const Recipe recipe = recipe_for_test("wang2025");
  for (const int zero : {0, 2}) {
    SCOPED_TRACE(zero);
    config.zero = zero;
    const fs::path whole = folder.path() / fmt::format("whole-{}", zero);
    ASSERT_TRUE(train_on(2, config, recipe, whole));
    double expected = 1 / std::sqrt(2.0);
    std::ifstream metrics(whole / "metrics.jsonl");
    int steps = 0;
    for (std::string text; std::getline(metrics, text); ++steps) {
      const nlohmann::json line = nlohmann::json::parse(text);
      EXPECT_DOUBLE_EQ(line.at("gradient_factor").get<double>(), expected);
      const bool saturated = line.at("exchange_saturated").get<double>() > 1e-5;
      expected = saturated ? expected / 2 : expected * std::exp2(1e-3);
    }
    EXPECT_EQ(steps, 6);
    const fs::path stopped = folder.path() / fmt::format("stopped-{}", zero);
    EXPECT_FALSE(train_on(2, config, recipe, stopped, Resume::No, 3));
    EXPECT_TRUE(train_on(2, config, recipe, stopped, Resume::Required));
    expect_same_run(whole, stopped);
  }
}

TEST(Ranks, FormatsThatDependOnTheirNumberAreNotDeterministic) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  config.exchange = ExchangeFormat::Fp8;
  EXPECT_USER_ERROR(train_on(2, config, recipe_for_test("bf16"), folder.path() / "run"), "train.deterministic");
}

TEST(Ranks, MoreThanMicroBatchesAreRefused) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  config.micro_batch = 3;
  EXPECT_USER_ERROR(train_on(3, config, recipe_for_test("bf16"), folder.path() / "run"),
                    "a step of 2 micro-batches cannot be shared by 3 ranks");
}

TEST(Ranks, MoreThanMatricesHaveRowsForAreRefused) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  config.batch = 9;
  config.zero = 1;
  EXPECT_USER_ERROR(train_on(9, config, recipe_for_test("bf16"), folder.path() / "run"), "enough for 4 ranks, not 9");
}

TEST(Ranks, FoldersThatTheyDoNotShareAreRefused) {
  const TemporaryDirectory folder;
  const TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  const Recipe recipe = recipe_for_test("bf16");
  EXPECT_FALSE(train_on(2, config, recipe, folder.path() / "0", Resume::No, 1));
  EXPECT_USER_ERROR(on_thread_ranks(2,
                                    [&](ThreadRank& rank) {
                                      train(rank, config, recipe, folder.path() / std::to_string(rank.rank()),
                                            Resume::Required, kNeverStop, {});
                                    }),
                    "it must be one folder that all of them share");
}

TEST(Ranks, LogWhatTheyGatherOfWeights) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 1);
  config.model.layers = 3;
  config.quality_every = 0;  // measured steps gather more
  config.zero = 3;
  const auto logged = [&](const char* recipe, GatherWeights gather) {
    config.gather = gather;
    const fs::path run = folder.path() / fmt::format("{}-{}", recipe, static_cast<int>(gather));
    EXPECT_TRUE(train_on(2, config, recipe_for_test(recipe), run));
    const nlohmann::json line = nlohmann::json::parse(read_file(run / "metrics.jsonl"));
    return std::pair{line["gathered_bytes"].get<double>(), line["gathered_of_bf16"].get<double>()};
  };
  const LlamaConfig& m = config.model;
  const double others =
      static_cast<double>(m.layers * (m.width * (m.qkv_width() + m.attention_width()) + 3 * m.width * m.ffn)) / 2;
  const auto [once, all] = logged("bf16", GatherWeights::Step);
  EXPECT_EQ(once, 2 * others);
  EXPECT_EQ(all, 1);
  // Three passes of a forward and a backward, for which the last block stays.
  EXPECT_EQ(logged("bf16", GatherWeights::Block).first, 3 * 5.0 / 3 * 2 * others);
  const auto [codes, share] = logged("fp4-direct", GatherWeights::Block);
  EXPECT_NEAR(share, 0.25, 0.02);
  EXPECT_NEAR(codes, share * 5 * 2 * others, 1);
}

TEST(Ranks, LogTheSpreadOfTheirOwnTimes) {
  const TemporaryDirectory folder;
  const TrainConfig config = config_of_ranks(write_small_data(folder.path()), 2);
  for (const int size : {1, 3}) {
    const fs::path run = folder.path() / std::to_string(size);
    ASSERT_TRUE(train_on(size, config, recipe_for_test("bf16"), run));
    std::istringstream lines(read_file(run / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json json = nlohmann::json::parse(line);
      ASSERT_EQ(json.contains("rank_seconds"), size > 1) << line;
      if (size == 1) continue;
      const nlohmann::json& seconds = json["rank_seconds"];
      EXPECT_GT(seconds["min"], 0);
      EXPECT_LE(seconds["min"], seconds["median"]);
      EXPECT_LE(seconds["median"], seconds["max"]);
      EXPECT_GE(seconds["slowest"], 0);
      EXPECT_LT(seconds["slowest"], size);
    }
  }
}

TEST(Ranks, AnAlarmThatStopsTheRunStopsAllOfThem) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()));
  config.checkpoint_async = true;
  config.alarms.threshold[static_cast<std::size_t>(AlarmKind::Underflow)] = 1e-6;
  config.alarms.stops[static_cast<std::size_t>(AlarmKind::Underflow)] = true;
  std::atomic<int> thrown{0};
  on_thread_ranks(3, [&](ThreadRank& rank) {
    try {
      EXPECT_FALSE(
          train(rank, config, recipe_for_test("fp4-direct"), folder.path() / "run", Resume::No, kNeverStop, {}));
    } catch (const AlarmStop&) {
      EXPECT_EQ(rank.rank(), 0);
      ++thrown;
    }
  });
  EXPECT_EQ(thrown, 1);
  EXPECT_EQ(load_run(folder.path() / "run").steps.size(), 1u);
  EXPECT_TRUE(newest_checkpoint(folder.path() / "run").has_value());
}

}  // namespace
}  // namespace nibble
