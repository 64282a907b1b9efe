#include "nibble/model/hugging_face_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nibble/model/hugging_face_json.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

using nlohmann::json;

/// As older files write it: the base of RoPE and its scaling apart.
json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_act", "silu"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"max_position_embeddings", 8192},
          {"num_attention_heads", 8},
          {"num_hidden_layers", 3},
          {"num_key_value_heads", 4},
          {"rms_norm_eps", 1e-5},
          {"rope_scaling", nullptr},
          {"rope_theta", 500000.0},
          {"tie_word_embeddings", true},
          {"vocab_size", 100}};
}
json family(const char* model_type, const char* architecture) {
  json config = llama();
  config["model_type"] = model_type;
  config["architectures"] = {architecture};
  return config;
}
json mistral() { return family("mistral", "MistralForCausalLM"); }
json qwen2() { return family("qwen2", "Qwen2ForCausalLM"); }
json qwen3() { return family("qwen3", "Qwen3ForCausalLM"); }

LlamaConfig read(const json& config) {
  const TemporaryDirectory dir;
  dir.write("config.json", config.dump());
  return read_hugging_face_config(dir.path());
}
LlamaConfig read_with(json config, const json& changes) {
  config.update(changes);
  return read(config);
}
void expect_refused(json config, const json& changes, const std::string& why) {
  config.update(changes);
  EXPECT_USER_ERROR(read(config), why);
}

TEST(HuggingFaceConfig, EveryKeyFindsItsPlace) {
  const LlamaConfig m = read(llama());
  EXPECT_EQ(m.layers, 3);
  EXPECT_EQ(m.width, 64);
  EXPECT_EQ(m.heads, 8);
  EXPECT_EQ(m.kv_heads, 4);
  EXPECT_EQ(m.head_dim(), 8);
  EXPECT_EQ(m.ffn, 96);
  EXPECT_EQ(m.vocab, 100);
  EXPECT_EQ(m.context, 8192);
  EXPECT_EQ(m.seq, 2048);
  EXPECT_EQ(m.rope_theta, 500000.0);
  EXPECT_EQ(m.norm_eps, 1e-5);
  EXPECT_TRUE(m.tied_head);
  EXPECT_FALSE(m.qkv_bias || m.qk_norm);
}

TEST(HuggingFaceConfig, FamiliesDifferInBiasesNormsAndHeads) {
  EXPECT_TRUE(read(qwen2()).qkv_bias);
  EXPECT_FALSE(read(qwen2()).qk_norm);
  EXPECT_TRUE(read(qwen3()).qk_norm);
  EXPECT_FALSE(read(qwen3()).qkv_bias);
  EXPECT_EQ(read(qwen3()).head_dim(), 128);  // where the file says nothing
  EXPECT_EQ(read_with(qwen3(), {{"head_dim", 8}}).head_dim(), 8);
  EXPECT_EQ(read_with(mistral(), {{"head_dim", 32}}).attention_width(), 256);
  EXPECT_EQ(read_with(llama(), {{"head_dim", nullptr}}).head_dim(), 8);
}

TEST(HuggingFaceConfig, RopeScalingIsReadInBothPlaces) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const RopeScaling want{RopeScaling::Kind::Llama3, 32, 1, 4, 8192};
  EXPECT_EQ(read_with(llama(), {{"rope_scaling", llama3}}).rope_scaling, want);
  json parameters = llama3;
  parameters["rope_theta"] = 123.0;
  const LlamaConfig newer = read_with(llama(), {{"rope_parameters", parameters}});
  EXPECT_EQ(newer.rope_scaling, want);
  EXPECT_EQ(newer.rope_theta, 123.0);
  const LlamaConfig linear = read_with(llama(), {{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}});
  EXPECT_EQ(linear.rope_scaling.kind, RopeScaling::Kind::Linear);
  EXPECT_EQ(linear.rope_scaling.factor, 4);
}

TEST(HuggingFaceConfig, AWindowLimitsTheContextWhereItIsInUse) {
  EXPECT_EQ(read_with(mistral(), {{"sliding_window", 1024}}).context, 1024);
  EXPECT_EQ(read_with(mistral(), {{"sliding_window", 1024}}).seq, 1024);
  EXPECT_EQ(read_with(mistral(), {{"sliding_window", nullptr}}).context, 8192);
  EXPECT_EQ(read_with(qwen2(), {{"sliding_window", 1024}, {"use_sliding_window", false}}).context, 8192);
  EXPECT_EQ(read_with(qwen2(), {{"sliding_window", 1024}, {"use_sliding_window", true}}).context, 1024);
  EXPECT_EQ(
      read_with(qwen3(), {{"sliding_window", 512}, {"layer_types", {"full_attention", "sliding_attention"}}}).context,
      512);
}

TEST(HuggingFaceConfig, ATrainingSequenceBeyondTheContextIsRefused) {
  const TemporaryDirectory dir;
  json config = mistral();
  config["sliding_window"] = 1024;
  dir.write("config.json", config.dump());
  const auto read_seq = [&](int seq) {
    const std::string text = fmt::format("[model]\nfile = '{}'\nseq = {}\n", dir.path().string(), seq);
    return read_llama_config(ConfigTable::parse_text(text, "t.toml").table("model"));
  };
  EXPECT_EQ(read_seq(1024).seq, 1024);
  EXPECT_EQ(read_seq(1024).width, 64);
  EXPECT_USER_ERROR(read_seq(1025), "1025 is more than the 1024 positions of the model's context");
}

TEST(HuggingFaceConfig, UnknownModelsAreRefusedWithAListOfThoseThatAreKnown) {
  expect_refused(llama(), {{"model_type", "gemma2"}}, "model_type 'gemma2' is not supported; nibble knows llama");
  expect_refused(llama(), {{"model_type", nullptr}}, "model_type '' is not supported");
  expect_refused(llama(), {{"architectures", {"LlamaForSequenceClassification"}}}, "qwen3 (Qwen3ForCausalLM)");
  expect_refused(llama(), {{"architectures", "LlamaForCausalLM"}}, "is not supported");
}

TEST(HuggingFaceConfig, WhatNibbleDoesNotComputeIsRefusedByName) {
  expect_refused(llama(), {{"attention_bias", true}}, "attention_bias is not supported");
  expect_refused(qwen3(), {{"attention_bias", true}}, "attention_bias is not supported");
  expect_refused(llama(), {{"mlp_bias", true}}, "mlp_bias is not supported");
  expect_refused(llama(), {{"hidden_act", "gelu"}}, "hidden_act 'gelu' is not supported");
  expect_refused(llama(), {{"attention_dropout", 0.1}}, "attention_dropout is not supported");
  expect_refused(llama(), {{"quantization_config", {{"bits", 4}}}}, "quantization_config is not supported");
  expect_refused(llama(), {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor is not supported");
  for (const char* type : {"yarn", "dynamic", "longrope", "su"}) {
    const std::string refusal = fmt::format("RoPE scaling '{}' is not supported", type);
    expect_refused(llama(), {{"rope_scaling", {{"type", type}, {"factor", 2}}}}, refusal);
    expect_refused(llama(), {{"rope_parameters", {{"rope_type", type}, {"factor", 2}}}}, refusal);
  }
  expect_refused(qwen3(), {{"layer_types", {"linear_attention"}}}, "layer_types holds \"linear_attention\"");
}

TEST(HuggingFaceConfig, WrongValuesAreRefusedByKey) {
  expect_refused(llama(), {{"hidden_size", nullptr}}, "hidden_size is missing");
  expect_refused(llama(), {{"hidden_size", -1}}, "hidden_size is -1, must be an integer from 1");
  expect_refused(llama(), {{"hidden_size", 64.5}}, "hidden_size is 64.5");
  expect_refused(llama(), {{"hidden_size", 65}}, "num_attention_heads does not divide hidden_size");
  expect_refused(llama(), {{"vocab_size", 1e300}}, "vocab_size");
  expect_refused(llama(), {{"vocab_size", UINT64_MAX}}, "vocab_size");
  expect_refused(llama(), {{"num_key_value_heads", 3}}, "num_key_value_heads does not divide");
  expect_refused(llama(), {{"head_dim", 7}}, "needs an even number");
  expect_refused(llama(), {{"head_dim", 512}}, "head_dim is 512");
  expect_refused(llama(), {{"rms_norm_eps", "small"}}, "rms_norm_eps is \"small\"");
  expect_refused(llama(), {{"tie_word_embeddings", 1}}, "tie_word_embeddings is 1, must be true or false");
  expect_refused(llama(), {{"hidden_act", 3}}, "hidden_act is 3, must be a string");
  expect_refused(llama(), {{"rope_scaling", 3}}, "rope_scaling is 3, must be an object");
  expect_refused(llama(), {{"rope_scaling", {{"rope_type", "linear"}}}}, "factor is missing");
  expect_refused(llama(), {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}}}, "low_freq_factor is missing");
  expect_refused(mistral(), {{"sliding_window", 0}}, "sliding_window is 0");
  const TemporaryDirectory dir;
  dir.write("config.json", "[]");
  EXPECT_USER_ERROR(read_hugging_face_config(dir.path()), "is not a JSON object");
}

TEST(HuggingFaceConfig, WhatIsWrittenReadsAsTheSameModel) {
  for (const json& config : {llama(), qwen2(), qwen3(), mistral()}) {
    for (const RopeScaling& scaling : {RopeScaling{},
                                       {.kind = RopeScaling::Kind::Linear, .factor = 3},
                                       {RopeScaling::Kind::Llama3, 8, 1, 4, 1024}}) {
      LlamaConfig m = read_with(config, {{"head_dim", 16}, {"tie_word_embeddings", false}});
      m.rope_scaling = scaling;
      LlamaConfig again = read(json::parse(hugging_face_config(m, DType::BF16).dump()));
      again.name = m.name;  // that of the folder
      EXPECT_EQ(to_toml(again), to_toml(m));
    }
  }
}

TEST(HuggingFaceConfig, AModelThatNoFamilyHasIsNotWritten) {
  LlamaConfig m = read(qwen3());
  m.qkv_bias = true;
  EXPECT_USER_ERROR(hugging_face_config(m, DType::F32), "has both qkv_bias and qk_norm");
}

}  // namespace
}  // namespace nibble
