// Small random models as llama.cpp keeps them, held against the Hugging Face folders they were made of
// (scripts/make_gguf_fixtures.py, which uses the gguf package's names and writer) and what transformers computes with
// those.
#include "nibble/model/gguf_model.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "nibble/model/hugging_face.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFixtures[] = {"llama3.1", "qwen2", "qwen3"};

fs::path hf_fixture(const std::string& family) { return fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/hf" / family; }
fs::path gguf_fixture(const std::string& family) {
  return fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf" / (family + ".gguf");
}

/// The same shape and the same bits in every tensor as in the folder that the file was made of.
void expect_same_model(const GgufModel& file, const std::string& family) {
  LlamaConfig want = read_hugging_face_config(hf_fixture(family));
  want.name = file.config().name;
  want.init_std = file.config().init_std;  // GGUF has none
  EXPECT_EQ(to_toml(file.config()), to_toml(want)) << family;
  const SafetensorsFolder folder(hf_fixture(family));
  EXPECT_EQ(file.names(), folder.names()) << family;
  check_weights(file.config(), file);
  for (const std::string& name : folder.names()) {
    const OwnedTensor got(DType::F32, file.shape(name)), wanted(DType::F32, folder.shape(name));
    file.read_floats(name, got);
    folder.read_floats(name, wanted);
    ASSERT_EQ(got.view().bytes(), wanted.view().bytes()) << name;
    EXPECT_EQ(std::memcmp(got.view().raw(), wanted.view().raw(), got.view().bytes()), 0) << family << " " << name;
  }
}

double logits_error(const GgufModel& file, const std::string& family) {
  Llama model(file.config(), unquantised_recipe(ElementFormat::F32), 1, DType::F32);
  load_weights(file, model);
  model.prepare(0, false);
  const SafetensorsFile expected(hf_fixture(family) / "expected.safetensors");
  const Tensor tokens = expected.view("tokens");
  const Tensor logits = expected.view("logits");
  const auto* first = tokens.data<std::int32_t>();
  double worst = 0;
  for (std::int64_t n = 1; n <= tokens.numel(); ++n) {
    const std::vector<float> got = model.next_token_logits({first, first + n});
    for (std::int64_t v = 0; v < logits.cols(); ++v) {
      const double want = logits.data<float>()[(n - 1) * logits.cols() + v];
      worst = std::max(worst, std::abs(static_cast<double>(got[static_cast<std::size_t>(v)]) - want));
    }
  }
  return worst;
}

TEST(GgufModel, IsTheModelThatItWasMadeOf) {
  for (const char* family : kFixtures) {
    const GgufModel file(gguf_fixture(family));
    expect_same_model(file, family);
    EXPECT_LT(logits_error(file, family), 1e-4) << family;
  }
}

/// Where Python has the gguf package, torch and safetensors, every family goes through its writer.
TEST(GgufModel, EveryFamilyComesBackFromTheGgufPackage) {
  const char* python = std::getenv("NIBBLE_GGUF_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "NIBBLE_GGUF_PYTHON names no Python with the gguf package";
  const TemporaryDirectory dir;
  constexpr const char* families[] = {"llama2",  "llama3.1", "llama-linear", "tinyllama",
                                      "smollm2", "mistral",  "qwen2",        "qwen3"};
  std::string command = fmt::format("'{}' '{}/scripts/make_gguf_fixtures.py' model", python, NIBBLE_SOURCE_DIR);
  for (const std::string family : families) {
    command += fmt::format(" '{}' '{}'", hf_fixture(family).string(), (dir / (family + ".gguf")).string());
  }
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  for (const std::string family : families) {
    const GgufModel file(dir / (family + ".gguf"));
    expect_same_model(file, family);
    EXPECT_LT(logits_error(file, family), 1e-4) << family;
  }
}

TEST(GgufModel, TensorNamesGoBothWays) {
  EXPECT_EQ(gguf_tensor_name("model.layers.12.self_attn.o_proj.weight"), "blk.12.attn_output.weight");
  EXPECT_EQ(gguf_tensor_name("model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(gguf_tensor_name("lm_head.weight"), "output.weight");
  EXPECT_EQ(gguf_tensor_name("model.layers.0.mlp.experts.0.weight"), "");
  EXPECT_EQ(gguf_tensor_name("model.layers.0"), "");
}

TEST(GgufModel, BytesAreHandedOnWhereTheyAreTheTensor) {
  const GgufModel file(gguf_fixture("llama3.1"));
  EXPECT_FALSE(file.bytes_as(DType::BF16, "model.embed_tokens.weight").empty());
  EXPECT_TRUE(file.bytes_as(DType::F32, "model.embed_tokens.weight").empty());
  EXPECT_FALSE(file.bytes_as(DType::F32, "model.norm.weight").empty());
  EXPECT_TRUE(file.bytes_as(DType::BF16, "model.layers.0.self_attn.q_proj.weight").empty());  // its rows move
}

/// A fixture's file with other metadata or tensors.
struct Changed {
  GgufFile file;  // whose memory the tensors are
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;

  explicit Changed(const std::string& family) : file(gguf_fixture(family)), metadata(file.metadata()) {
    for (const auto& [name, tensor] : file.tensors()) tensors.push_back(tensor);
  }
  void set(const std::string& key, GgufValue value) {
    for (auto& [known, old] : metadata) {
      if (known == key) {
        old = std::move(value);
        return;
      }
    }
    metadata.emplace_back(key, std::move(value));
  }
  void erase(const std::string& key) {
    std::erase_if(metadata, [&](const auto& item) { return item.first == key; });
  }
  GgufTensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const GgufTensor& t) { return t.name == name; });
  }
  fs::path write(const TemporaryDirectory& dir) const {
    const std::vector<GgufTensorInfo> infos(tensors.begin(), tensors.end());
    write_gguf(dir / "m.gguf", metadata, infos, [&](std::size_t i) { return tensors[i].bytes; });
    return dir / "m.gguf";
  }
};

template <class F>
void expect_refused(const std::string& family, const F& change, const std::string& why) {
  const TemporaryDirectory dir;
  Changed changed(family);
  change(changed);
  const fs::path path = changed.write(dir);
  const std::string message = user_error_of([&] {
    const GgufModel model(path);
    check_weights(model.config(), model);
  });
  EXPECT_NE(message.find(why), std::string::npos) << message;
  EXPECT_NE(message.find(path.string()), std::string::npos) << message;
}

TEST(GgufModelRefusals, OtherArchitecturesAndKeysAreNamed) {
  expect_refused(
      "qwen3", [](Changed& c) { c.erase("general.architecture"); }, "general.architecture is missing");
  expect_refused(
      "qwen3", [](Changed& c) { c.set("general.architecture", std::string("gemma3")); },
      "the architecture 'gemma3' is not supported; nibble knows llama, qwen2, qwen3");
  expect_refused(
      "qwen3", [](Changed& c) { c.set("qwen3.expert_count", 8u); }, "qwen3.expert_count is not supported");
  expect_refused(
      "llama3.1", [](Changed& c) { c.set("llama.logit_scale", 0.5f); }, "llama.logit_scale");
}

TEST(GgufModelRefusals, MissingAndWrongValuesAreNamed) {
  expect_refused(
      "qwen2", [](Changed& c) { c.erase("qwen2.block_count"); }, "qwen2.block_count is missing");
  expect_refused(
      "qwen2", [](Changed& c) { c.set("qwen2.block_count", 0u); }, "qwen2.block_count is 0");
  expect_refused(
      "qwen2", [](Changed& c) { c.set("qwen2.embedding_length", std::string("wide")); },
      "qwen2.embedding_length is not an integer");
  expect_refused(
      "qwen2", [](Changed& c) { c.set("qwen2.attention.head_count", 5u); }, "does not divide the width");
  expect_refused(
      "qwen2", [](Changed& c) { c.set("qwen2.attention.head_count_kv", 3u); },
      "the number of key heads does not divide");
  expect_refused(
      "qwen2", [](Changed& c) { c.set("qwen2.attention.layer_norm_rms_epsilon", -1.0f); },
      "qwen2.attention.layer_norm_rms_epsilon is -1");
  expect_refused(
      "qwen3", [](Changed& c) { c.set("qwen3.attention.value_length", 8u); }, "values of 8 dimensions");
  expect_refused(
      "qwen3", [](Changed& c) { c.set("qwen3.attention.key_length", 15u); }, "heads have 15 dimensions");
}

TEST(GgufModelRefusals, RopeThatNibbleDoesNotKnowIsNamed) {
  expect_refused(
      "llama3.1", [](Changed& c) { c.set("llama.rope.dimension_count", 4u); },
      "4 of 8 dimensions of a head are rotated");
  expect_refused(
      "qwen3", [](Changed& c) { c.set("qwen3.rope.scaling.type", std::string("yarn")); },
      "RoPE scaling 'yarn' is not supported");
  expect_refused(
      "llama3.1",
      [](Changed& c) {
        c.set("llama.rope.scaling.type", std::string("linear"));
        c.set("llama.rope.scaling.factor", 2.0f);
      },
      "RoPE is scaled twice");
  const std::vector<float> odd = {1, 3, 2, 8};
  expect_refused(
      "llama3.1", [&](Changed& c) { c.tensor("rope_freqs.weight").bytes = std::as_bytes(std::span(odd)); },
      "rope_freqs.weight is not a scaling of RoPE");
}

TEST(GgufModelRefusals, TensorsThatDoNotFitAreNamed) {
  expect_refused(
      "qwen2", [](Changed& c) { c.tensor("blk.1.attn_k.bias").name = "blk.1.attn_k.offset"; },
      "has no tensor 'blk.1.attn_k.bias'");
  expect_refused(
      "qwen3", [](Changed& c) { c.tensor("blk.0.attn_output.weight").name = "blk.0.ffn_up_exps.weight"; },
      "has no tensor 'blk.0.attn_output.weight'");
  expect_refused(
      "qwen2", [](Changed& c) { c.set("qwen2.feed_forward_length", 64u); }, "mlp.gate_proj.weight' of");
  expect_refused(
      "qwen2",
      [](Changed& c) {
        GgufTensor extra = c.tensor("output_norm.weight");
        extra.name = "blk.0.attn_output.bias";
        c.tensors.push_back(extra);
      },
      "holds tensor 'blk.0.attn_output.bias', which the model does not have");
  expect_refused(
      "qwen2", [](Changed& c) { c.tensor("token_embd.weight").name = "token_embed.weight"; },
      "has no tensor 'token_embd.weight'; did you mean 'token_embed.weight'?");
}

TEST(GgufModel, AFactorBesideATensorOfPlainNumbersIsNotLostOnExport) {
  const TemporaryDirectory dir;
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  Changed changed("llama3.1");
  ASSERT_EQ(changed.tensor("blk.0.ffn_down.weight").type, GgmlType::BF16);
  const float quarter = 0.25f;  // exact in BF16, too
  GgufTensor scale;
  scale.name = "blk.0.ffn_down.scale";
  scale.shape = {1};
  scale.bytes = std::as_bytes(std::span(&quarter, 1));
  changed.tensors.push_back(scale);
  const GgufModel model(changed.write(dir));
  const GgufModel plain(gguf_fixture("llama3.1"));
  EXPECT_FALSE(plain.bytes_as(DType::BF16, name).empty());
  EXPECT_TRUE(model.bytes_as(DType::BF16, name).empty());
  export_hugging_face(model.config(), model, {.dtype = DType::BF16}, dir / "hf");
  const OwnedTensor exported(DType::F32, model.shape(name)), unscaled(DType::F32, model.shape(name));
  SafetensorsFolder(dir / "hf").read_floats(name, exported);
  plain.read_floats(name, unscaled);
  for (std::int64_t i = 0; i < unscaled.view().numel(); ++i) {
    ASSERT_EQ(exported.view().data<float>()[i], 0.25f * unscaled.view().data<float>()[i]) << i;
  }
}

TEST(GgufModel, ASlidingWindowLimitsTheContextAndFrequenciesOfOneChangeNothing) {
  const TemporaryDirectory dir;
  Changed changed("llama3.1");
  changed.set("llama.attention.sliding_window", 32u);
  const std::vector<float> ones(4, 1.0f);
  changed.tensor("rope_freqs.weight").bytes = std::as_bytes(std::span(ones));
  const GgufModel model(changed.write(dir));
  EXPECT_EQ(model.config().context, 32);
  EXPECT_EQ(model.config().rope_scaling, RopeScaling{});
}

TEST(GgufModel, LinearScalingAndItsOldKey) {
  const TemporaryDirectory dir;
  Changed changed("qwen3");
  changed.set("qwen3.rope.scaling.type", std::string("linear"));
  changed.set("qwen3.rope.scaling.factor", 4.0f);
  const RopeScaling linear{.kind = RopeScaling::Kind::Linear, .factor = 4};
  EXPECT_EQ(GgufModel(changed.write(dir)).config().rope_scaling, linear);
  Changed old("qwen3");
  old.set("qwen3.rope.scale_linear", 4.0f);
  EXPECT_EQ(GgufModel(old.write(dir)).config().rope_scaling, linear);
}

}  // namespace
}  // namespace nibble
