#include "nibble/train/stored_model.h"

#include <algorithm>

#include "nibble/train/import.h"
#include "tests/data/english.h"
#include "tests/inspect/small_checkpoint.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& family) { return fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/hf" / family; }

/// An imported run names its recipe; tests run in any folder.
[[maybe_unused]] const int g_recipes = setenv("NIBBLE_RECIPES", NIBBLE_SOURCE_DIR "/recipes", 1);

const std::vector<std::int32_t> kTokens = {1, 5, 9, 40, 33, 2, 60};

/// A run of a few steps.
struct TrainedRun {
  explicit TrainedRun(const std::string& recipe, int steps = 3) {
    const TrainConfig config = small_config(write_small_data(folder.path()), steps);
    EXPECT_TRUE(train(config, recipe_for_test(recipe), folder / "run", Resume::No, kNeverStop, {}));
    checkpoint = newest_checkpoint(folder / "run").value();
  }
  TemporaryDirectory folder;
  fs::path checkpoint;
};

TEST(StoredModel, ARunIsItsNewestCheckpoint) {
  const TrainedRun run("bf16");
  const StoredModel by_run = StoredModel::open(run.folder / "run");
  const StoredModel by_checkpoint = StoredModel::open(run.checkpoint);
  EXPECT_EQ(by_run.path(), run.checkpoint);
  EXPECT_EQ(by_run.identity(), by_checkpoint.identity());
  EXPECT_TRUE(by_run.is_checkpoint());
  EXPECT_EQ(by_run.step(), 3);
  EXPECT_EQ(by_run.seed(), 3u);
  EXPECT_EQ(by_run.config().name, "small");
  EXPECT_EQ(by_run.config().seq, 16);
  EXPECT_EQ(by_run.recipe()->name, "bf16");
}

TEST(StoredModel, AGgufFileIsTheModelThatItWasMadeOf) {
  const fs::path file = fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf/llama3.1.gguf";
  const StoredModel model = StoredModel::open(file);
  const StoredModel folder = StoredModel::open(fixture("llama3.1"));
  EXPECT_EQ(model.path(), file);
  EXPECT_FALSE(model.is_checkpoint());
  EXPECT_FALSE(model.recipe());
  EXPECT_EQ(model.config().seq, folder.config().seq);
  EXPECT_EQ(model.load(std::nullopt, Device::Cpu)->next_token_logits(kTokens),
            folder.load(std::nullopt, Device::Cpu)->next_token_logits(kTokens));
  EXPECT_EQ(model.identity(), StoredModel::open(file).identity());
  EXPECT_NE(model.identity(), StoredModel::open(file.parent_path() / "qwen2.gguf").identity());
}

TEST(StoredModel, AFolderOfTheHuggingFaceToolsHasItsWholeContextAndNoRecipe) {
  StoredModel model = StoredModel::open(fixture("llama3.1"));
  EXPECT_EQ(model.path(), fixture("llama3.1"));
  EXPECT_FALSE(model.is_checkpoint());
  EXPECT_EQ(model.step(), 0);
  EXPECT_FALSE(model.recipe());
  EXPECT_EQ(model.config().seq, 64);
  EXPECT_EQ(model.config().context, 64);
  model.set_seq(7);
  EXPECT_EQ(model.load(std::nullopt, Device::Cpu)->next_token_logits(kTokens).size(), 96u);
  EXPECT_USER_ERROR(model.set_seq(0), "a sequence of 0 tokens");
  EXPECT_USER_ERROR(model.set_seq(65), "takes 1 to 64");
  model.set_seq(64);
}

TEST(StoredModel, IsTheSameModelWhetherImportedOrNot) {
  const TemporaryDirectory dir;
  import_hugging_face(fixture("qwen3"), dir / "run", 0);
  const StoredModel imported = StoredModel::open(dir / "run");
  const StoredModel direct = StoredModel::open(fixture("qwen3"));
  EXPECT_TRUE(imported.is_checkpoint());
  EXPECT_EQ(direct.load(std::nullopt, Device::Cpu)->next_token_logits(kTokens),
            imported.load(std::nullopt, Device::Cpu)->next_token_logits(kTokens));
  // Hadamard signs, which the seed decides.
  const Recipe recipe = recipe_for_test("nvfp4");
  EXPECT_EQ(direct.load(recipe, Device::Cpu)->next_token_logits(kTokens),
            imported.load(recipe, Device::Cpu)->next_token_logits(kTokens));
}

TEST(StoredModel, TheRecipeOfTheTrainingRunsTheStageThatItHadThen) {
  const TrainedRun run("zhou2025", 15);  // whose last stage is BF16
  const StoredModel model = StoredModel::open(run.checkpoint);
  const std::vector<float> ready = model.load(model.recipe(), Device::Cpu)->next_token_logits(kTokens);

  const TrainState state = load_state(run.checkpoint);
  ASSERT_GT(state.stage.stage, 0u);
  const Recipe recipe = parse_recipe(state.recipe, "the run's");
  Llama by_hand(model.config(), recipe, model.seed());
  load_weights(run.checkpoint, by_hand);
  by_hand.prepare(0, false);
  EXPECT_NE(by_hand.next_token_logits(kTokens), ready) << "in the first stage";
  load_recipe_state(run.checkpoint, state, by_hand);
  by_hand.prepare(0, false);
  EXPECT_EQ(by_hand.next_token_logits(kTokens), ready);
}

TEST(StoredModel, AnotherRecipeBeginsAnew) {
  const TrainedRun run("bf16");
  const StoredModel model = StoredModel::open(run.checkpoint);
  const std::vector<float> exact = model.load(std::nullopt, Device::Cpu)->next_token_logits(kTokens);
  const std::vector<float> fp4 = model.load(recipe_for_test("fp4-direct"), Device::Cpu)->next_token_logits(kTokens);
  ASSERT_EQ(exact.size(), fp4.size());
  double difference = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(exact[i]) - static_cast<double>(fp4[i])));
  }
  EXPECT_GT(difference, 1e-3);
  EXPECT_LT(difference, 3);
}

TEST(StoredModel, IdentityFollowsTheWeights) {
  const TemporaryDirectory dir;
  const LlamaConfig config = read_hugging_face_config(fixture("qwen2"));
  const SafetensorsFolder weights(fixture("qwen2"));
  export_hugging_face(config, weights, {}, dir / "whole");
  export_hugging_face(config, weights, {.most_bytes = 20000}, dir / "shards");
  const std::string whole = StoredModel::open(dir / "whole").identity();
  EXPECT_EQ(StoredModel::open(dir / "shards").identity(), whole) << "the same tensors in several files";
  std::string file = read_file(dir / "whole/model.safetensors");
  file.back() = static_cast<char>(file.back() ^ 1);
  dir.write("whole/model.safetensors", file);
  EXPECT_NE(StoredModel::open(dir / "whole").identity(), whole);
}

TEST(StoredModel, TheTokenizerIsTheModelsOwnUnlessAnotherIsNamed) {
  const TemporaryDirectory dir;
  make_directories(dir / "data");
  small_tokenizer().save_in(dir / "data");
  const StoredModel model = StoredModel::open(
      write_checkpoint(dir / "run", inspected_config(dir / "data", small_tokenizer().vocab_size(), 1)));
  EXPECT_EQ(model.tokenizer().hash(), small_tokenizer().hash());
  fs::rename(dir / "data/tokenizer.model", dir / "moved.model");
  fs::remove(dir / "data");
  EXPECT_USER_ERROR(model.tokenizer(), "there is no tokenizer at");
  EXPECT_EQ(model.tokenizer(dir / "moved.model").hash(), small_tokenizer().hash());

  const StoredModel wide =
      StoredModel::open(write_checkpoint(dir / "wide", inspected_config("", small_tokenizer().vocab_size() + 12, 1)));
  EXPECT_EQ(wide.tokenizer(dir / "moved.model").vocab_size(), wide.config().vocab - 12) << "rows to spare";
  EXPECT_USER_ERROR(StoredModel::open(fixture("qwen2")).tokenizer(dir / "moved.model"),
                    "has 420 pieces, the model a vocabulary of 96");
}

TEST(StoredModel, WhatIsNoModelIsRefused) {
  const TrainedRun run("bf16");
  EXPECT_USER_ERROR(StoredModel::open(run.folder / "data"), "holds no model");
  EXPECT_USER_ERROR(StoredModel::open(run.folder / "nowhere"), "holds no model");
  make_directories(run.folder / "begun/checkpoints");
  EXPECT_USER_ERROR(StoredModel::open(run.folder / "begun"), "holds no checkpoint");
  fs::copy(run.checkpoint, run.folder / "mixed");
  const std::string weights = read_file(run.checkpoint / kWeightsFile);
  run.folder.write("mixed/model.safetensors", weights.substr(0, weights.size() - 4) + "none");
  EXPECT_USER_ERROR(StoredModel::open(run.folder / "mixed"), "its checksum differs");
  const TemporaryDirectory other;
  fs::copy(fixture("qwen2"), other / "model");
  fs::copy(fixture("qwen3") / kWeightsFile, other / "model" / kWeightsFile, fs::copy_options::overwrite_existing);
  EXPECT_USER_ERROR(StoredModel::open(other / "model").load(std::nullopt, Device::Cpu), "has the shape");
}

}  // namespace
}  // namespace nibble
