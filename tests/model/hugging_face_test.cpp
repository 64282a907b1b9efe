// Small random models of every family, held against what transformers computes with them; scripts/make_hf_fixtures.py
// made both.
#include "nibble/model/hugging_face.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "nibble/io/json.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFamilies[] = {"llama2",  "llama3.1", "llama-linear", "tinyllama",
                                     "smollm2", "mistral",  "qwen2",        "qwen3"};

fs::path fixture(const std::string& family) { return fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/hf" / family; }

/// The largest difference between the model's logits behind each prefix of the fixture's tokens and those expected.
double logits_error(const fs::path& model_folder, const std::string& family) {
  Llama model(read_hugging_face_config(model_folder), unquantised_recipe(ElementFormat::F32), 1, DType::F32);
  load_weights(model_folder, model);
  model.prepare(0, false);
  const SafetensorsFile expected(fixture(family) / "expected.safetensors");
  const Tensor tokens = expected.view("tokens");
  const Tensor logits = expected.view("logits");
  double worst = 0;
  for (std::int64_t n = 1; n <= tokens.numel(); ++n) {
    const auto* first = tokens.data<std::int32_t>();
    const std::vector<float> got = model.next_token_logits({first, first + n});
    for (std::int64_t v = 0; v < logits.cols(); ++v) {
      const double want = logits.data<float>()[(n - 1) * logits.cols() + v];
      worst = std::max(worst, std::abs(static_cast<double>(got[static_cast<std::size_t>(v)]) - want));
    }
  }
  return worst;
}

bool same_tensors(const SafetensorsFolder& a, const SafetensorsFolder& b) {
  if (a.names() != b.names()) return false;
  for (const std::string& name : a.names()) {
    const SafetensorsEntry& x = a.entry(name);
    const SafetensorsEntry& y = b.entry(name);
    if (x.dtype != y.dtype || x.shape != y.shape || !std::ranges::equal(x.bytes, y.bytes)) return false;
  }
  return true;
}

class HuggingFace : public testing::TestWithParam<const char*> {};

TEST_P(HuggingFace, LogitsAreThoseOfTransformers) {
  const double error = logits_error(fixture(GetParam()), GetParam());
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, 1e-4);
}

TEST_P(HuggingFace, ExportKeepsEveryBitAndTheModel) {
  const TemporaryDirectory dir;
  const LlamaConfig model = read_hugging_face_config(fixture(GetParam()));
  const SafetensorsFolder original(fixture(GetParam()));
  export_hugging_face(model, original, {}, dir / "wide");
  LlamaConfig again = read_hugging_face_config(dir / "wide");
  again.name = model.name;
  EXPECT_EQ(to_toml(again), to_toml(model));
  EXPECT_EQ(logits_error(dir / "wide", GetParam()), logits_error(fixture(GetParam()), GetParam()));
  // F32 holds what F16 and BF16 do, so a second round changes nothing.
  export_hugging_face(again, SafetensorsFolder(dir / "wide"), {.most_bytes = 20000}, dir / "shards");
  EXPECT_TRUE(fs::exists(dir / "shards/model.safetensors.index.json"));
  EXPECT_TRUE(same_tensors(SafetensorsFolder(dir / "wide"), SafetensorsFolder(dir / "shards")));
  // And the fixtures in BF16 come back as they were.
  if (original.entry("model.norm.weight").dtype != "BF16") return;
  export_hugging_face(again, SafetensorsFolder(dir / "shards"), {.dtype = DType::BF16}, dir / "narrow");
  EXPECT_TRUE(same_tensors(original, SafetensorsFolder(dir / "narrow")));
}

TEST_P(HuggingFace, WeightsInHalfAreReadAsRoundedOnce) {
  const LlamaConfig config = read_hugging_face_config(fixture(GetParam()));
  const Recipe bf16 = unquantised_recipe(ElementFormat::BF16);
  Llama wide(config, bf16, 1);
  Llama half(config, bf16, 1, DType::BF16, Device::Cpu, {.half_weights = true});
  load_weights(fixture(GetParam()), wide);
  load_weights(fixture(GetParam()), half);
  for (std::size_t i = 0; i < wide.parameters().size(); ++i) {
    const OwnedTensor a = values_of(wide.parameters()[i]);
    const OwnedTensor b = values_of(half.parameters()[i]);
    for (std::int64_t j = 0; j < a.view().numel(); ++j) {
      const double want = a.view().data<float>()[j];
      ASSERT_NEAR(b.view().data<float>()[j], want, 0x1p-10 * std::abs(want) + 1e-6) << wide.parameters()[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, HuggingFace, testing::ValuesIn(kFamilies), [](const auto& info) {
  std::string name = info.param;
  std::erase_if(name, [](char c) { return c == '.' || c == '-'; });
  return name;
});

/// Where Python has transformers (NIBBLE_TRANSFORMERS_PYTHON names the interpreter), it reads what was written.
TEST(HuggingFaceExport, TransformersComputesTheSameLogitsWithIt) {
  const char* python = std::getenv("NIBBLE_TRANSFORMERS_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "NIBBLE_TRANSFORMERS_PYTHON names no Python with transformers";
  const TemporaryDirectory dir;
  std::string command = fmt::format("'{}' '{}/scripts/make_hf_fixtures.py' check", python, NIBBLE_SOURCE_DIR);
  for (const char* family : kFamilies) {
    export_hugging_face(read_hugging_face_config(fixture(family)), SafetensorsFolder(fixture(family)),
                        {.most_bytes = 40000}, dir / family);
    command += fmt::format(" '{}' '{}'", (dir / family).string(), (fixture(family) / "expected.safetensors").string());
  }
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

/// Writes the qwen2 fixture with some of its tensors changed.
template <class F>
void expect_weights_refused(const F& change, const std::string& why) {
  const TemporaryDirectory dir;
  const SafetensorsFolder original(fixture("qwen2"));
  std::map<std::string, SafetensorsEntry> entries;
  for (const std::string& name : original.names()) entries[name] = original.entry(name);
  change(entries);
  std::vector<SafetensorsEntry> changed;
  for (const auto& [name, entry] : entries) {
    changed.push_back(entry);
    changed.back().name = name;
  }
  write_safetensors(dir / kWeightsFile, changed);
  const LlamaConfig model = read_hugging_face_config(fixture("qwen2"));
  if (why.empty()) {
    EXPECT_NO_THROW(check_weights(model, SafetensorsFolder(dir.path())));
  } else {
    EXPECT_USER_ERROR(check_weights(model, SafetensorsFolder(dir.path())), why);
  }
}
using Entries = std::map<std::string, SafetensorsEntry>;

TEST(HuggingFaceWeights, AMissingTensorIsNamed) {
  expect_weights_refused([](Entries& e) { e.erase("model.layers.1.self_attn.k_proj.bias"); },
                         "has no tensor 'model.layers.1.self_attn.k_proj.bias'");
}
TEST(HuggingFaceWeights, ATensorOfAnotherShapeIsNamed) {
  expect_weights_refused(
      [](Entries& e) { e["model.layers.0.mlp.up_proj.weight"] = e.at("model.layers.0.self_attn.q_proj.weight"); },
      "'model.layers.0.mlp.up_proj.weight'");
}
TEST(HuggingFaceWeights, ATensorThatTheModelLacksIsNamed) {
  expect_weights_refused([](Entries& e) { e["model.layers.0.self_attn.o_proj.bias"] = e.at("model.norm.weight"); },
                         "holds tensor 'model.layers.0.self_attn.o_proj.bias', which the model does not have");
}
TEST(HuggingFaceWeights, ATiedHeadAndOldFrequenciesArePassedOver) {
  expect_weights_refused(
      [](Entries& e) {
        e["lm_head.weight"] = e.at("model.embed_tokens.weight");
        e["model.layers.0.self_attn.rotary_emb.inv_freq"] = e.at("model.norm.weight");
      },
      "");
}

TEST(HuggingFaceExport, TakesTheTokenizerAlong) {
  const TemporaryDirectory dir;
  const TemporaryDirectory tokenizer;
  const LlamaConfig model = read_hugging_face_config(fixture("smollm2"));
  const SafetensorsFolder weights(fixture("smollm2"));
  EXPECT_USER_ERROR(export_hugging_face(model, weights, {.tokenizer = tokenizer.path()}, dir / "none"),
                    "holds no file of a tokenizer");
  tokenizer.write("tokenizer.json", "{\"version\": \"1.0\"}");
  tokenizer.write("config.json", "{\"bos_token_id\": 1, \"eos_token_id\": [2, 7], \"hidden_size\": 5}");
  tokenizer.write("generation_config.json", "{\"temperature\": 0.2}");
  export_hugging_face(model, weights, {.tokenizer = tokenizer.path()}, dir / "out");
  EXPECT_EQ(read_file(dir / "out/tokenizer.json"), "{\"version\": \"1.0\"}");
  const nlohmann::json config = read_json(dir / "out/config.json");
  EXPECT_EQ(config["eos_token_id"], nlohmann::json({2, 7}));
  EXPECT_EQ(config["hidden_size"], 32);
  EXPECT_EQ(read_json(dir / "out/generation_config.json")["temperature"], 0.2);
  EXPECT_EQ(read_json(dir / "out/generation_config.json")["bos_token_id"], 1);
}

TEST(HuggingFaceExport, AFolderThatIsThereIsLeftAlone) {
  const TemporaryDirectory dir;
  dir.write("mine", "x");
  const LlamaConfig model = read_hugging_face_config(fixture("smollm2"));
  EXPECT_THROW(export_hugging_face(model, SafetensorsFolder(fixture("smollm2")), {}, dir.path()), UserError);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"mine"});
}

}  // namespace
}  // namespace nibble
