// Models with random weights on the disk, and the values that their weights have in a served form.
#pragma once

#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <string>

#include "nibble/io/safetensors_folder.h"
#include "nibble/model/serving_weights.h"
#include "nibble/numerics/philox.h"
#include "nibble/quant/quantize.h"

namespace nibble::testing_support {

/// Tests run in any folder.
[[maybe_unused]] inline const int kRecipesSet = setenv("NIBBLE_RECIPES", NIBBLE_SOURCE_DIR "/recipes", 1);

/// Every format's blocks divide its matrices, and no two dimensions are equal.
inline LlamaConfig served_llama() {
  LlamaConfig c;
  c.name = "served";
  c.layers = 4;
  c.width = 128;
  c.heads = 4;
  c.kv_heads = 2;
  c.ffn = 192;
  c.vocab = 96;
  c.seq = c.context = 64;
  return c;
}

/// Writes model.safetensors with values of some spread, so that blocks have different scales.
inline void write_random_weights(const LlamaConfig& model, const std::filesystem::path& folder) {
  std::deque<OwnedTensor> values;
  std::vector<SafetensorsEntry> entries;
  RandomStream random{.seed = 7};
  for (const ParameterShape& parameter : parameter_shapes(model)) {
    for (const ParameterPart& part : parameter.parts) {
      values.emplace_back(DType::F32, parameter.part_shape(part));
      float* v = values.back().view().data<float>();
      ++random.tensor;
      for (std::int64_t i = 0; i < values.back().view().numel(); ++i) {
        const Philox4 words = random.words(static_cast<std::uint64_t>(i));
        v[i] = (uniform24(words.v[0]) - 0.5f) * (words.v[1] % 16 == 0 ? 0.5f : 0.06f) +
               (part.hf_name.ends_with("norm.weight") ? 1.0f : 0.0f);
      }
      entries.push_back(safetensors_entry(part.hf_name, values.back()));
    }
  }
  write_safetensors(folder / kWeightsFile, entries);
}

/// Values by Hugging Face name: dequantised where the plan has codes, else rounded to `plain`.
class ServedValues {
 public:
  ServedValues(const LlamaConfig& model, const TensorSource& weights, const ServingPlan& plan, DType plain) {
    ServedSource source(weights, plan.format);
    for (const ParameterShape& parameter : parameter_shapes(model)) {
      const Tensor& w = source.parameter(parameter);
      const OwnedTensor values(DType::F32, parameter.shape);
      const ServedLinear* linear = plan.find(parameter.name);
      if (linear != nullptr && linear->kind != ServedLinear::Kind::HighPrecision) {
        dequantise(source.quantised(parameter, *linear), plan.format, values);
      } else {
        const OwnedTensor rounded(plain, parameter.shape);
        convert(w, rounded);
        convert(rounded, values);
      }
      std::int64_t first = 0;
      const std::int64_t row = w.numel() / parameter.shape[0];
      for (const ParameterPart& part : parameter.parts) {
        OwnedTensor& piece = tensors_[part.hf_name] = OwnedTensor(DType::F32, parameter.part_shape(part));
        convert(values.view().elements(first * row, (first + part.rows) * row), piece);
        first += part.rows;
      }
    }
  }
  const std::map<std::string, OwnedTensor>& tensors() const { return tensors_; }
  /// Gains and biases as another has them.
  void take_vectors(const ServedValues& other) {
    for (auto& [name, tensor] : tensors_) {
      if (tensor.view().dims() == 1) convert(other.tensors_.at(name), tensor);
    }
  }
  void save(const std::filesystem::path& file, bool exact) const {
    std::vector<SafetensorsEntry> entries;
    for (const auto& [name, tensor] : tensors_) entries.push_back(safetensors_entry(name, tensor));
    write_safetensors(file, entries, {{"exact", exact ? "1" : "0"}});
  }

 private:
  /// By nibble's own decoder.
  static void dequantise(const ServedWeight& served, ServingFormat format, const Tensor& values) {
    QTensor q;
    q.element = ElementFormat::E2M1;
    q.rows = values.rows();
    q.cols = values.cols();
    q.granularity = Granularity::block(1, serving_block(format));
    q.scale_format = format == ServingFormat::Nvfp4 ? ScaleFormat::UE4M3 : ScaleFormat::E8M0;
    q.codes = served.codes;
    q.scales = served.scales;
    q.tensor_scale = served.tensor_scale;
    dequantize(q, values);
  }

  std::map<std::string, OwnedTensor> tensors_;
};

}  // namespace nibble::testing_support
