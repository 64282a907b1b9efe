// The folders of model/compressed_tensors.h, byte by byte and by the package's own reader.
#include "nibble/model/compressed_tensors.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "nibble/io/json.h"
#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "tests/model/served_model.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing_support::served_llama;
using testing_support::ServedValues;
using testing_support::write_random_weights;

ServingPlan plan(const LlamaConfig& model, const char* recipe, ServingFormat format) {
  return plan_serving(model, load_recipe(find_recipe(recipe)), 0, format, ServingRule::Auto, serving_block(format));
}

void write(const LlamaConfig& model, const fs::path& weights, const ServingPlan& plan, const fs::path& folder,
           bool quantised_inputs = false) {
  export_compressed_tensors(model, SafetensorsFolder(weights),
                            {plan, quantised_inputs, {.dtype = DType::BF16, .most_bytes = 60000}}, folder);
}

/// A matrix of the folder by the equations of the format's description.
float value_at(const SafetensorsFolder& folder, const std::string& module, bool nvfp4, std::int64_t r, std::int64_t c) {
  const SafetensorsEntry& packed = folder.entry(module + ".weight_packed");
  const SafetensorsEntry& scale = folder.entry(module + ".weight_scale");
  const auto byte = [](const SafetensorsEntry& e, std::int64_t i) {
    return std::to_integer<std::uint8_t>(e.bytes[static_cast<std::size_t>(i)]);
  };
  const std::uint8_t pair = byte(packed, r * packed.shape[1] + c / 2);
  const float code = e2m1_decode(static_cast<std::uint8_t>(c % 2 == 0 ? pair & 15 : pair >> 4));
  const std::uint8_t s = byte(scale, r * scale.shape[1] + c / (nvfp4 ? 16 : 32));
  if (!nvfp4) return code * e8m0_decode(s);
  OwnedTensor global(DType::F32, {1});
  folder.read_floats(module + ".weight_global_scale", global);
  return code * (e4m3_decode(s) / global.view().data<float>()[0]);
}

TEST(CompressedTensors, FoldersHoldTheThreeTensorsOfEachLayerAndDecodeToNibblesValues) {
  for (const ServingFormat format : {ServingFormat::Nvfp4, ServingFormat::Mxfp4}) {
    const TemporaryDirectory dir;
    const LlamaConfig model = served_llama();
    write_random_weights(model, dir.path());
    const bool nvfp4 = format == ServingFormat::Nvfp4;
    const ServingPlan served = plan(model, "bf16", format);
    write(model, dir.path(), served, dir / "out");
    const SafetensorsFolder folder(dir / "out");
    const ServedValues values(model, SafetensorsFolder(dir.path()), served, DType::BF16);

    const std::string k = "model.layers.1.self_attn.k_proj";
    EXPECT_EQ(folder.entry(k + ".weight_packed").dtype, "U8");
    EXPECT_EQ(folder.entry(k + ".weight_packed").shape, (std::vector<std::int64_t>{64, 64}));
    EXPECT_EQ(folder.entry(k + ".weight_scale").dtype, nvfp4 ? "F8_E4M3" : "U8");
    EXPECT_EQ(folder.entry(k + ".weight_scale").shape, (std::vector<std::int64_t>{64, nvfp4 ? 8 : 4}));
    EXPECT_EQ(folder.contains(k + ".weight_global_scale"), nvfp4);
    EXPECT_FALSE(folder.contains(k + ".weight"));
    EXPECT_EQ(folder.entry("lm_head.weight").dtype, "BF16");
    for (const auto& [name, value] : values.tensors()) {
      if (folder.contains(name)) continue;
      const std::string module = name.substr(0, name.rfind('.'));
      for (std::int64_t i = 0; i < value.view().numel(); ++i) {
        const std::int64_t cols = value.view().cols();
        ASSERT_EQ(value_at(folder, module, nvfp4, i / cols, i % cols), value.view().data<float>()[i])
            << module << " " << i;
      }
    }
  }
}

TEST(CompressedTensors, QueryKeyAndValueShareAGlobalScaleAsGateAndUpDo) {
  const TemporaryDirectory dir;
  const LlamaConfig model = served_llama();
  write_random_weights(model, dir.path());
  write(model, dir.path(), plan(model, "four-over-six", ServingFormat::Nvfp4), dir / "out");
  const SafetensorsFolder folder(dir / "out");
  const auto scale = [&](const std::string& module) {
    const OwnedTensor value(DType::F32, {1});
    folder.read_floats("model.layers.0." + module + ".weight_global_scale", value);
    return value.view().data<float>()[0];
  };
  EXPECT_EQ(scale("self_attn.q_proj"), scale("self_attn.k_proj"));
  EXPECT_EQ(scale("self_attn.q_proj"), scale("self_attn.v_proj"));
  EXPECT_EQ(scale("mlp.gate_proj"), scale("mlp.up_proj"));
}

TEST(CompressedTensors, TheConfigurationNamesFormatGroupAndWhatStaysUnquantised) {
  const TemporaryDirectory dir;
  const LlamaConfig model = served_llama();
  write_random_weights(model, dir.path());
  write(model, dir.path(), plan(model, "nvfp4", ServingFormat::Nvfp4), dir / "nvfp4");
  const nlohmann::json nvfp4 = read_json(dir / "nvfp4" / kHuggingFaceConfigFile)["quantization_config"];
  EXPECT_EQ(nvfp4["quant_method"], "compressed-tensors");
  EXPECT_EQ(nvfp4["format"], "nvfp4-pack-quantized");
  EXPECT_EQ(nvfp4["config_groups"]["group_0"]["weights"]["strategy"], "tensor_group");
  EXPECT_TRUE(nvfp4["config_groups"]["group_0"]["input_activations"].is_null());
  EXPECT_EQ(nvfp4["ignore"].size(), 8U);  // the head and the seven matrices of the exempt last block
  EXPECT_EQ(nvfp4["ignore"][1], "model.layers.3.self_attn.q_proj");

  write(model, dir.path(), plan(model, "nvfp4", ServingFormat::Mxfp4), dir / "mxfp4", true);
  const nlohmann::json mxfp4 = read_json(dir / "mxfp4" / kHuggingFaceConfigFile)["quantization_config"];
  EXPECT_EQ(mxfp4["config_groups"]["group_0"]["weights"]["group_size"], 32);
  EXPECT_EQ(mxfp4["config_groups"]["group_0"]["input_activations"]["dynamic"], true);
  EXPECT_EQ(mxfp4["ignore"], nlohmann::json::array({"lm_head"}));
  EXPECT_THROW(write(model, dir.path(), plan(model, "nvfp4", ServingFormat::Nvfp4), dir / "no", true), UserError);
  EXPECT_FALSE(fs::exists(dir / "no"));
}

/// Where Python has compressed-tensors (NIBBLE_COMPRESSED_TENSORS_PYTHON names the interpreter), it decompresses what
/// was written; where it has transformers, too, that loads the folder.
TEST(CompressedTensors, ThePackageDecompressesTheSameValues) {
  const char* python = std::getenv("NIBBLE_COMPRESSED_TENSORS_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "NIBBLE_COMPRESSED_TENSORS_PYTHON names no Python with compressed-tensors";
  for (const char* recipe : {"bf16", "four-over-six"}) {
    for (const ServingFormat format : {ServingFormat::Nvfp4, ServingFormat::Mxfp4}) {
      const TemporaryDirectory dir;
      const LlamaConfig model = served_llama();
      write_random_weights(model, dir.path());
      const ServingPlan served = plan(model, recipe, format);
      write(model, dir.path(), served, dir / "out");
      const bool exact = served.count(ServedLinear::Kind::AsTrained) == 0;
      ServedValues(model, SafetensorsFolder(dir.path()), served, DType::BF16).save(dir / "expected.safetensors", exact);
      const std::string command =
          fmt::format("'{}' '{}/scripts/check_fp4_export.py' folder '{}' '{}'", python, NIBBLE_SOURCE_DIR,
                      (dir / "out").string(), (dir / "expected.safetensors").string());
      EXPECT_EQ(std::system(command.c_str()), 0) << command;
    }
  }
}

}  // namespace
}  // namespace nibble
