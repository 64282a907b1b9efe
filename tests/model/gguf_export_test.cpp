// GGUF files of model/gguf_export.h, read back by nibble's reader and by the gguf package.
#include "nibble/model/gguf_export.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "nibble/model/gguf_model.h"
#include "nibble/model/hugging_face.h"
#include "tests/model/served_model.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing_support::served_llama;
using testing_support::ServedValues;
using testing_support::write_random_weights;

constexpr GgmlType kTypes[] = {GgmlType::F32, GgmlType::BF16, GgmlType::MXFP4, GgmlType::NVFP4};

GgufExport options(const LlamaConfig& model, GgmlType type, const char* recipe) {
  GgufExport options{.type = type};
  if (ggml_is_fp4(type)) {
    options.plan = plan_serving(model, load_recipe(find_recipe(recipe)), 0,
                                type == GgmlType::MXFP4 ? ServingFormat::Mxfp4 : ServingFormat::Nvfp4,
                                ServingRule::Auto, ggml_type_info(type).block_size);
  }
  return options;
}

LlamaConfig relative(bool qkv_bias, bool qk_norm) {
  LlamaConfig model = served_llama();
  model.qkv_bias = qkv_bias;
  model.qk_norm = qk_norm;
  model.own_head_dim = qk_norm ? 64 : 0;
  model.tied_head = qkv_bias;
  return model;
}

class GgufExportOf : public testing::TestWithParam<GgmlType> {};

TEST_P(GgufExportOf, EveryFamilyReadsBackAsTheSameModelWithTheServedValues) {
  for (const LlamaConfig& model : {relative(false, false), relative(true, false), relative(false, true)}) {
    const TemporaryDirectory dir;
    write_random_weights(model, dir.path());
    const GgufExport what = options(model, GetParam(), "four-over-six");
    export_gguf(model, SafetensorsFolder(dir.path()), what, dir / "served.gguf");
    const GgufModel read(dir / "served.gguf");
    LlamaConfig same = read.config();
    same.init_std = model.init_std;
    EXPECT_EQ(to_toml(same), to_toml(model));
    check_weights(model, read);
    const DType plain = GetParam() == GgmlType::F32 ? DType::F32 : DType::BF16;
    ServedValues values(model, SafetensorsFolder(dir.path()), what.plan, plain);
    values.take_vectors(ServedValues(model, SafetensorsFolder(dir.path()), {}, DType::F32));
    for (const auto& [name, value] : values.tensors()) {
      const Tensor& want = value.view();
      const OwnedTensor got(DType::F32, read.shape(name));
      read.read_floats(name, got);
      for (std::int64_t i = 0; i < want.numel(); ++i) {
        ASSERT_EQ(got.view().data<float>()[i], want.data<float>()[i]) << name << " " << i;
      }
    }
  }
}

TEST_P(GgufExportOf, TheGgufPackageDecodesTheSameValues) {
  const char* python = std::getenv("NIBBLE_GGUF_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "NIBBLE_GGUF_PYTHON names no Python with gguf and safetensors";
  const TemporaryDirectory dir;
  const LlamaConfig model = served_llama();
  write_random_weights(model, dir.path());
  const GgufExport what = options(model, GetParam(), "four-over-six");
  export_gguf(model, SafetensorsFolder(dir.path()), what, dir / "served.gguf");
  const DType plain = GetParam() == GgmlType::F32 ? DType::F32 : DType::BF16;
  ServedValues values(model, SafetensorsFolder(dir.path()), what.plan, plain);
  values.take_vectors(ServedValues(model, SafetensorsFolder(dir.path()), {}, DType::F32));
  values.save(dir / "expected.safetensors", true);
  const std::string command =
      fmt::format("'{}' '{}/scripts/check_fp4_export.py' gguf '{}' '{}'", python, NIBBLE_SOURCE_DIR,
                  (dir / "served.gguf").string(), (dir / "expected.safetensors").string());
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

INSTANTIATE_TEST_SUITE_P(Types, GgufExportOf, testing::ValuesIn(kTypes),
                         [](const auto& info) { return std::string(ggml_type_info(info.param).name); });

TEST(GgufExport, KeepsLlama3sScalingOfRope) {
  LlamaConfig model = served_llama();
  model.rope_scaling = {
      .kind = RopeScaling::Kind::Llama3, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_seq = 32};
  const TemporaryDirectory dir;
  write_random_weights(model, dir.path());
  export_gguf(model, SafetensorsFolder(dir.path()), {}, dir / "served.gguf");
  EXPECT_EQ(GgufModel(dir / "served.gguf").config().rope_scaling, model.rope_scaling);
  model.qkv_bias = true;
  write_random_weights(model, dir.path());
  EXPECT_THROW(export_gguf(model, SafetensorsFolder(dir.path()), {}, dir / "no.gguf"), UserError);
  EXPECT_FALSE(fs::exists(dir / "no.gguf"));
}

TEST(GgufExport, NamesTheFileTypeThatLlamaCppExpects) {
  const std::map<GgmlType, std::int64_t> numbers = {
      {GgmlType::F32, 0}, {GgmlType::BF16, 32}, {GgmlType::MXFP4, 38}, {GgmlType::NVFP4, 39}};
  const TemporaryDirectory dir;
  const LlamaConfig model = served_llama();
  write_random_weights(model, dir.path());
  for (const GgmlType type : kTypes) {
    const fs::path file = dir / fmt::format("{}.gguf", ggml_type_info(type).name);
    export_gguf(model, SafetensorsFolder(dir.path()), options(model, type, "bf16"), file);
    EXPECT_EQ(GgufFile(file).integer("general.file_type"), numbers.at(type));
  }
}

}  // namespace
}  // namespace nibble
