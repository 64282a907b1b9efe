// Runs on data with a loss mask.
#include <gtest/gtest.h>

#include <functional>

#include "nibble/data/loader.h"
#include "tests/recipe/shipped_recipes.h"
#include "tests/thread_ranks.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kDocument = 20;  // tokens of a document, of which the last kAnswer are the completion
constexpr std::int64_t kAnswer = 8;

/// Prompts are noise, completions follow from token to token.
void write_masked_split(const fs::path& file, std::int64_t tokens, std::uint32_t seed, bool all_count = false) {
  std::mt19937 rng(seed);
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> counted;
  std::int32_t now = 3;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const bool answer = i % kDocument >= kDocument - kAnswer;
    now = answer ? static_cast<std::int32_t>((now * 5 + 7) % kSmallVocab)
                 : static_cast<std::int32_t>(rng() % static_cast<unsigned>(kSmallVocab));
    ids.push_back(now);
    counted.push_back(answer || all_count ? 1 : 0);
  }
  ShardWriter writer(file, kSmallVocab, 1, true);
  writer.append(ids, counted);
  writer.commit();
}

fs::path write_masked_data(const fs::path& folder, const std::string& name = "masked", bool all_count = false) {
  const fs::path data = folder / name;
  make_directories(data);
  write_masked_split(data / "train-00000.bin", 4000, 1, all_count);
  write_masked_split(data / "valid.bin", 300, 2, all_count);
  DatasetMeta meta;
  meta.vocab_size = kSmallVocab;
  meta.tokenizer_hash = 1;
  meta.masked = true;
  meta.train = {4000, 200, 4000, {"train-00000.bin"}, all_count ? 4000 : 4000 * kAnswer / kDocument};
  meta.valid = {300, 15, 300, {"valid.bin"}, all_count ? 300 : 300 * kAnswer / kDocument};
  write_dataset_meta(data, meta);
  return data;
}

/// The same tokens without a mask.
fs::path write_plain_twin(const fs::path& masked, const fs::path& folder) {
  make_directories(folder);
  DatasetMeta meta = read_dataset_meta(masked);
  meta.masked = false;
  for (const char* name : {"train-00000.bin", "valid.bin"}) {
    const Shard from(masked / name);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(from.tokens()));
    from.copy(0, ids);
    ShardWriter writer(folder / name, kSmallVocab, 1);
    writer.append(ids);
    writer.commit();
  }
  write_dataset_meta(folder, meta);
  return folder;
}

std::vector<nlohmann::json> lines_of(const fs::path& run) {
  std::vector<nlohmann::json> lines;
  std::istringstream in(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST(MaskedRun, LearnsTheCompletionsAndSaysWhatItCounted) {
  const TemporaryDirectory folder;
  const fs::path data = write_masked_data(folder.path());
  TrainConfig config = small_config(data, 60);
  std::vector<StepReport> reports;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { reports.push_back(report); };
  const Recipe recipe = recipe_for_test("bf16");
  ASSERT_TRUE(train(config, recipe, folder.path() / "masked-run", Resume::No, kNeverStop, callbacks));
  const auto masked = lines_of(folder.path() / "masked-run");
  // 64 targets a step, two fifths of which are completions give or take what windows cut.
  for (const nlohmann::json& line : masked) {
    EXPECT_EQ(line["tokens"], 64 * line["step"].get<int>());
    EXPECT_NEAR(line["counted_tokens"].get<double>(), 64 * 0.4, 12);
  }
  ASSERT_EQ(reports.size(), 60u);
  EXPECT_EQ(reports[7].counted_tokens, masked[7]["counted_tokens"].get<std::int64_t>());
  EXPECT_GT(masked[0]["loss"].get<double>(), 3.8);          // log 64 = 4.16
  EXPECT_LT(masked.back()["val_loss"].get<double>(), 1.0);  // completions can be foretold

  config.data = write_plain_twin(data, folder.path() / "plain");
  ASSERT_TRUE(train(config, recipe, folder.path() / "plain-run", Resume::No, kNeverStop, {}));
  const auto plain = lines_of(folder.path() / "plain-run");
  EXPECT_FALSE(plain[0].contains("counted_tokens"));
  EXPECT_GT(plain.back()["val_loss"].get<double>(), 2.3);  // three fifths of 4.16 nats are noise
}

TEST(MaskedRun, AMaskThatCountsEverythingGivesThePlainRunsBits) {
  const TemporaryDirectory folder;
  const fs::path data = write_masked_data(folder.path(), "masked", true);
  TrainConfig config = small_config(data, 6);
  const Recipe recipe = recipe_for_test("wang2025");
  ASSERT_TRUE(train(config, recipe, folder.path() / "a", Resume::No, kNeverStop, {}));
  config.data = write_plain_twin(data, folder.path() / "plain");
  ASSERT_TRUE(train(config, recipe, folder.path() / "b", Resume::No, kNeverStop, {}));
  const fs::path a = newest_checkpoint(folder.path() / "a").value(), b = newest_checkpoint(folder.path() / "b").value();
  EXPECT_TRUE(read_file(a / "model.safetensors") == read_file(b / "model.safetensors"));
  EXPECT_TRUE(read_file(a / "optimizer.safetensors") == read_file(b / "optimizer.safetensors"));
}

TEST(MaskedRun, HowTheBatchIsCutDoesNotChangeTheMean) {
  const TemporaryDirectory folder;
  TrainConfig config = small_config(write_masked_data(folder.path()), 4);
  const Recipe recipe = recipe_for_test("bf16");
  std::vector<std::vector<nlohmann::json>> runs;
  for (const std::int64_t micro_batch : {4, 2, 1}) {
    config.micro_batch = micro_batch;
    const fs::path run = folder.path() / std::to_string(micro_batch);
    ASSERT_TRUE(train(config, recipe, run, Resume::No, kNeverStop, {}));
    runs.push_back(lines_of(run));
  }
  for (const auto& run : runs) {
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(run[i]["counted_tokens"], runs[0][i]["counted_tokens"]);
      EXPECT_NEAR(run[i]["loss"].get<double>(), runs[0][i]["loss"].get<double>(), i == 0 ? 1e-5 : 2e-2);
      EXPECT_NEAR(run[i]["grad_norm"].get<double>(), runs[0][i]["grad_norm"].get<double>(),
                  (i == 0 ? 0.01 : 0.1) * runs[0][i]["grad_norm"].get<double>());
    }
  }
}

TEST(MaskedRun, ResumesBitForBit) {
  const TemporaryDirectory folder;
  const TrainConfig config = small_config(write_masked_data(folder.path()), 10);
  for (const char* name : {"bf16", "wang2025"}) {
    SCOPED_TRACE(name);
    const Recipe recipe = recipe_for_test(name);
    const fs::path whole = folder.path() / name / "whole", parts = folder.path() / name / "parts";
    ASSERT_TRUE(train(config, recipe, whole, Resume::No, kNeverStop, {}));
    EXPECT_FALSE(train_until(2, config, recipe, parts));
    EXPECT_FALSE(train_until(7, config, recipe, parts));
    ASSERT_TRUE(train(config, recipe, parts, Resume::Required, kNeverStop, {}));
    expect_same_run(whole, parts);
  }
}

TEST(MaskedRun, IsTheSameOnSeveralRanks) {
  const TemporaryDirectory folder;
  TrainConfig config = small_config(write_masked_data(folder.path()), 6);
  config.micro_batch = 1;  // micro-batches differ in how many of their targets count
  config.deterministic = true;
  const Recipe recipe = recipe_for_test("wang2025");
  ASSERT_TRUE(train(config, recipe, folder.path() / "1", Resume::No, kNeverStop, {}));
  for (const int size : {2, 3}) {
    const fs::path run = folder.path() / std::to_string(size);
    testing_support::on_thread_ranks(size, [&](testing_support::ThreadRank& rank) {
      EXPECT_TRUE(train(rank, config, recipe, run, Resume::No, kNeverStop, {}));
    });
    expect_same_run(folder.path() / "1", run);
  }
}

TEST(MaskedRun, IsNotResumedWithAnotherMask) {
  const TemporaryDirectory folder;
  TrainConfig config = small_config(write_masked_data(folder.path()), 6);
  const Recipe recipe = recipe_for_test("bf16");
  EXPECT_FALSE(train_until(3, config, recipe, folder.path() / "run"));
  const std::string before = config.data.string();
  write_masked_data(folder.path(), "masked", true);  // the same tokens
  EXPECT_USER_ERROR(train(config, recipe, folder.path() / "run", Resume::Required, kNeverStop, {}),
                    "was trained on other data");
}

class MaskedRunOf : public testing::TestWithParam<std::string> {};

// Masked targets leave rows of zeros in the gradients that recipes quantise.
TEST_P(MaskedRunOf, StaysFiniteAndLearns) {
  const TemporaryDirectory folder;
  TrainConfig config = small_config(write_masked_data(folder.path()), 4);
  config.model.layers = 1;
  config.model.width = config.model.ffn = 128;
  config.model.seq = 64;
  config.validate_sequences = 2;
  ASSERT_TRUE(train(config, recipe_for_test(GetParam()), folder.path() / "run", Resume::No, kNeverStop, {}));
  const auto lines = lines_of(folder.path() / "run");
  EXPECT_LT(lines.back()["loss"].get<double>(), lines.front()["loss"].get<double>());
}

INSTANTIATE_TEST_SUITE_P(Recipes, MaskedRunOf, testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

}  // namespace
}  // namespace nibble
