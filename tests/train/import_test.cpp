#include "nibble/train/import.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "nibble/data/tokenizer.h"
#include "nibble/io/gguf.h"
#include "nibble/train/config.h"
#include "nibble/train/optimizer.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& family) { return fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/hf" / family; }

/// The same bits in every tensor, read as F32.
void expect_same_weights(const fs::path& a, const fs::path& b) {
  const SafetensorsFolder x(a), y(b);
  ASSERT_EQ(x.names(), y.names());
  for (const std::string& name : x.names()) {
    ASSERT_EQ(x.entry(name).shape, y.entry(name).shape);
    const OwnedTensor left(DType::F32, x.entry(name).shape), right(DType::F32, x.entry(name).shape);
    x.read_floats(name, left);
    y.read_floats(name, right);
    EXPECT_EQ(std::memcmp(left.view().raw(), right.view().raw(), left.view().bytes()), 0) << name;
  }
}

/// A configuration that trains the fixture's model, whatever the small one's shape is.
TrainConfig fine_tuning_config(const fs::path& data, const fs::path& model, int steps) {
  ConfigTable table = ConfigTable::parse_text(small_config_text(data, steps), "small.toml");
  for (const char* key : {"name", "layers", "width", "heads", "ffn", "vocab"}) table.table("model").erase(key);
  table.set("model.file='" + model.string() + "'");
  table.set("train.init='" + model.string() + "'");
  return read_train_config(table);
}

/// An imported run names its recipe; tests run in any folder.
[[maybe_unused]] const int g_recipes = setenv("NIBBLE_RECIPES", NIBBLE_SOURCE_DIR "/recipes", 1);

class Import : public testing::TestWithParam<const char*> {};

TEST_P(Import, ThenExportGivesTheSameModel) {
  const TemporaryDirectory dir;
  import_hugging_face(fixture(GetParam()), dir / "run", 0);
  const fs::path checkpoint = newest_checkpoint(dir / "run").value();
  EXPECT_EQ(load_state(checkpoint).step, 0);
  expect_same_weights(checkpoint, fixture(GetParam()));
  export_checkpoint(dir / "run", {}, dir / "out");
  expect_same_weights(dir / "out", fixture(GetParam()));
  LlamaConfig again = read_hugging_face_config(dir / "out");
  const LlamaConfig before = read_hugging_face_config(fixture(GetParam()));
  again.name = before.name;
  EXPECT_EQ(to_toml(again), to_toml(before));
}

INSTANTIATE_TEST_SUITE_P(Families, Import, testing::Values("llama3.1", "smollm2", "mistral", "qwen2", "qwen3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '.');
                           return name;
                         });

TEST(Import, AGgufFileGivesTheModelThatItWasMadeOf) {
  for (const std::string family : {"llama3.1", "qwen2", "qwen3"}) {
    const TemporaryDirectory dir;
    const fs::path file = fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf" / (family + ".gguf");
    import_gguf(file, dir / "run", 0);
    expect_same_weights(newest_checkpoint(dir / "run").value(), fixture(family));
    convert_to_hugging_face(file, {}, dir / "hf");
    expect_same_weights(dir / "hf", fixture(family));
    LlamaConfig got = read_hugging_face_config(dir / "hf");
    const LlamaConfig want = read_hugging_face_config(fixture(family));
    got.name = want.name;
    EXPECT_EQ(to_toml(got), to_toml(want));
    EXPECT_USER_ERROR(import_gguf(file, dir / "run", 0), "holds checkpoints already");
    EXPECT_USER_ERROR(import_gguf(file, dir / "other", 65), "65 tokens");
  }
}

TEST(Import, AGgufFilesTokenizerGoesAlong) {
  const TemporaryDirectory dir;
  const GgufFile original(fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf/qwen3.gguf");
  // Byte-level BPE of single letters: as many tokens as the model's table has rows.
  std::vector<std::string> tokens = {"<|endoftext|>"};
  std::vector<std::int32_t> types = {3};
  for (char c = '!'; tokens.size() < 92; ++c) {
    tokens.emplace_back(1, c);
    types.push_back(1);
  }
  GgufMetadata metadata = original.metadata();
  metadata.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  metadata.emplace_back("tokenizer.ggml.pre", std::string("qwen2"));
  metadata.emplace_back("tokenizer.ggml.tokens", GgufArray(tokens));
  metadata.emplace_back("tokenizer.ggml.token_type", GgufArray(types));
  metadata.emplace_back("tokenizer.ggml.merges", GgufArray(std::vector<std::string>{}));
  metadata.emplace_back("tokenizer.ggml.eos_token_id", 0u);
  std::vector<GgufTensorInfo> infos;
  std::vector<std::span<const std::byte>> bytes;
  for (const auto& [name, tensor] : original.tensors()) {
    infos.push_back(tensor);
    bytes.push_back(tensor.bytes);
  }
  write_gguf(dir / "m.gguf", metadata, infos, [&](std::size_t i) { return bytes[i]; });

  import_gguf(dir / "m.gguf", dir / "run", 0);
  const fs::path checkpoint = newest_checkpoint(dir / "run").value();
  const TrainConfig config = read_train_config(ConfigTable::parse_text(load_state(checkpoint).config, "state"));
  EXPECT_TRUE(fs::equivalent(config.data, checkpoint));
  const std::vector<std::int32_t> ids = {static_cast<std::int32_t>('a' - '!' + 1), 0};
  EXPECT_EQ(Tokenizer::load(config.data).encode("a<|endoftext|>"), ids);

  convert_to_hugging_face(dir / "m.gguf", {.dtype = DType::BF16}, dir / "hf");
  EXPECT_EQ(Tokenizer::load(dir / "hf").encode("a<|endoftext|>"), ids);
  EXPECT_EQ(nlohmann::json::parse(read_file(dir / "hf/config.json"))["eos_token_id"], 0);
  EXPECT_EQ(SafetensorsFolder(dir / "hf").entry("model.norm.weight").dtype, "BF16");
  // A folder of the Hugging Face tools takes the same way, with its tokenizer.
  convert_to_hugging_face(dir / "hf", {}, dir / "wide");
  expect_same_weights(dir / "wide", dir / "hf");
  EXPECT_EQ(read_file(dir / "wide/tokenizer.json"), read_file(dir / "hf/tokenizer.json"));
}

TEST(Import, HasNoOptimizerToGoOnWith) {
  const TemporaryDirectory dir;
  import_hugging_face(fixture("qwen3"), dir / "run", 32);
  const fs::path checkpoint = newest_checkpoint(dir / "run").value();
  const TrainConfig config = read_train_config(ConfigTable::parse_text(load_state(checkpoint).config, "state"));
  EXPECT_EQ(config.model.seq, 32);
  Llama model(config.model, recipe_for_test("bf16"), 1);
  EXPECT_USER_ERROR(load_optimizer(checkpoint, *make_optimizer(OptimizerKind::AdamW, model)), "holds weights alone");
}

TEST(Import, RefusesARunThatIsThereAndASequenceThatIsTooLong) {
  const TemporaryDirectory dir;
  import_hugging_face(fixture("llama2"), dir / "run", 0);
  EXPECT_USER_ERROR(import_hugging_face(fixture("llama2"), dir / "run", 0), "holds checkpoints already");
  EXPECT_USER_ERROR(import_hugging_face(fixture("llama2"), dir / "other", 65), "65 tokens");
  EXPECT_USER_ERROR(import_hugging_face(fixture("llama2"), dir / "other", -1), "-1 tokens");
}

TEST(FineTuning, BeginsWithTheWeightsOfTheFolder) {
  const TemporaryDirectory dir;
  for (const OptimizerKind kind : {OptimizerKind::AdamW, OptimizerKind::AdamWFp8}) {
    TrainConfig config = fine_tuning_config(write_small_data(dir.path()), fixture("qwen2"), 1);
    config.optimizer = kind;
    config.lr = 0;  // so the step leaves the weights as they were
    const fs::path run = dir / (kind == OptimizerKind::AdamW ? "wide" : "narrow");
    ASSERT_TRUE(train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {}));
    if (kind == OptimizerKind::AdamW) {
      expect_same_weights(newest_checkpoint(run).value(), fixture("qwen2"));
      continue;
    }
    const SafetensorsFolder got(newest_checkpoint(run).value()), want(fixture("qwen2"));
    for (const std::string& name : want.names()) {
      const OwnedTensor a(DType::F32, want.entry(name).shape), b(DType::F32, want.entry(name).shape);
      want.read_floats(name, a);
      got.read_floats(name, b);
      for (std::int64_t i = 0; i < a.view().numel(); ++i) {
        const float w = a.view().data<float>()[i];
        ASSERT_NEAR(b.view().data<float>()[i], w, 1e-3f * std::abs(w) + 1e-6f) << name;
      }
    }
  }
}

TEST(FineTuning, LowersTheLossOfEveryKindOfModelAndResumesToTheBit) {
  for (const char* family : {"qwen2", "qwen3", "llama3.1"}) {
    const TemporaryDirectory dir;
    const TrainConfig config = fine_tuning_config(write_small_data(dir.path()), fixture(family), 12);
    const Recipe recipe = recipe_for_test("nvfp4");
    ASSERT_TRUE(train(config, recipe, dir / "whole", Resume::No, kNeverStop, {}));
    const std::string metrics = metrics_without_rates(dir / "whole");
    std::istringstream lines(metrics);
    std::string first, last;
    std::getline(lines, first);
    for (std::string line; std::getline(lines, line);) last = line;
    EXPECT_LT(nlohmann::json::parse(last)["loss"], nlohmann::json::parse(first)["loss"].get<double>() - 0.5) << family;
    train_until(7, config, recipe, dir / "parts");
    train_until(12, config, recipe, dir / "parts");
    expect_same_run(dir / "whole", dir / "parts");
  }
}

TEST(FineTuning, BeginsWithAnyModelThatNibbleReads) {
  const TemporaryDirectory dir;
  const fs::path data = write_small_data(dir.path());
  import_hugging_face(fixture("qwen2"), dir / "run", 0);
  const fs::path checkpoint = newest_checkpoint(dir / "run").value();
  for (const fs::path& model :
       {dir / "run", checkpoint, fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf/qwen2.gguf"}) {
    SCOPED_TRACE(model.string());
    TrainConfig config = fine_tuning_config(data, model, 1);
    config.lr = 0;
    const fs::path run = dir / ("of-" + model.filename().string());
    ASSERT_TRUE(train(config, recipe_for_test("bf16"), run, Resume::No, kNeverStop, {}));
    expect_same_weights(newest_checkpoint(run).value(), fixture("qwen2"));
  }
}

TEST(FineTuning, AModelOfAnotherShapeIsRefused) {
  const TemporaryDirectory dir;
  TrainConfig config = small_config(write_small_data(dir.path()), 1);
  config.init = fixture("qwen2");
  EXPECT_USER_ERROR(train(config, recipe_for_test("bf16"), dir / "run", Resume::No, kNeverStop, {}),
                    "'model.embed_tokens.weight'");
}

}  // namespace
}  // namespace nibble
