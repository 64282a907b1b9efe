#include "nibble/model/hugging_face.h"

#include <array>
#include <deque>
#include <nlohmann/json.hpp>
#include <set>

#include "nibble/io/atomic_file.h"
#include "nibble/io/hugging_face_files.h"
#include "nibble/io/json.h"
#include "nibble/model/hugging_face_json.h"
#include "nibble/model/parameter_shapes.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// The files that the tokenizers of all families consist of; a model has some of them.
constexpr std::array kTokenizerFiles = {
    kTokenizerJsonFile,  kSentencePieceFile, kTokenizerConfigFile, "special_tokens_map.json",
    "added_tokens.json", "vocab.json",       "merges.txt",         kChatTemplateFile};

/// A tensor that a folder may hold though the model has no parameter of its name.
bool passed_over(const LlamaConfig& model, const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || (model.tied_head && name == "lm_head.weight");
}

/// Writes the files of a tokenizer, and takes over the ids of special tokens. `where` names them in messages.
void add_tokenizer(const std::map<std::string, std::string>& files, const std::string& where, const fs::path& to,
                   nlohmann::ordered_json& config, nlohmann::ordered_json& generation) {
  const auto object = [&](const char* name) {
    const auto file = files.find(name);
    const std::string origin = fmt::format("{}/{}", where, name);
    json value = file == files.end() ? json::object() : parse_json(file->second, origin);
    if (!value.is_object()) user_error("'{}' is not a JSON object", origin);
    return value;
  };
  for (const auto& [name, text] : files) {
    if (name != kHuggingFaceConfigFile && name != kGenerationConfigFile) write_file_atomic(to / name, text);
  }
  for (const char* name : {kGenerationConfigFile, kHuggingFaceConfigFile}) {
    const json ids = object(name);
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
      if (!ids.contains(key)) continue;
      config[key] = ids[key];
      generation[key] = ids[key];
    }
  }
  generation.update(object(kGenerationConfigFile));
}

}  // namespace

void check_weights(const LlamaConfig& model, const TensorSource& weights) {
  std::set<std::string> known;
  for (const ParameterShape& parameter : parameter_shapes(model)) {
    for (const ParameterPart& part : parameter.parts) {
      const std::vector<std::int64_t> wanted = parameter.part_shape(part);
      const std::vector<std::int64_t> shape = weights.shape(part.hf_name);
      if (shape != wanted) {
        user_error("tensor '{}' of '{}' has the shape {} where the model's is {}", part.hf_name,
                   weights.path().string(), json(shape).dump(), json(wanted).dump());
      }
      known.insert(part.hf_name);
    }
  }
  for (const std::string& name : weights.names()) {
    if (!known.contains(name) && !passed_over(model, name)) {
      user_error("'{}' holds tensor '{}', which the model does not have", weights.path().string(), name);
    }
  }
}

void load_weights(const fs::path& folder, Llama& model) { load_weights(SafetensorsFolder(folder), model); }

void load_weights(const TensorSource& weights, Llama& model) {
  check_weights(model.config(), weights);
  for (const Parameter& p : model.parameters()) {
    const bool in_place = p.value.device() == Device::Cpu && !p.in_half() && !p.value_piece.defined();
    const OwnedTensor staged = in_place ? OwnedTensor() : OwnedTensor(DType::F32, p.value.shape());
    for_each_part(p, in_place ? p.value : staged.view(),
                  [&](const std::string& name, const Tensor& part) { weights.read_floats(name, part); });
    if (!in_place) set_values(p, copy_to(staged, p.value.device()));
  }
}

std::map<std::string, std::string> read_tokenizer_files(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const char* name : kTokenizerFiles) {
    if (fs::exists(folder / name)) files[name] = read_file(folder / name);
  }
  if (files.empty()) user_error("'{}' holds no file of a tokenizer, such as {}", folder.string(), kTokenizerFiles[0]);
  for (const char* name : {kHuggingFaceConfigFile, kGenerationConfigFile}) {
    if (fs::exists(folder / name)) files[name] = read_file(folder / name);
  }
  return files;
}

std::set<std::int32_t> read_end_ids(const fs::path& folder) {
  for (const char* name : {kGenerationConfigFile, kHuggingFaceConfigFile}) {
    if (!fs::exists(folder / name)) continue;
    const json config = read_json(folder / name);
    const json found = config.is_object() ? config.value("eos_token_id", json()) : json();
    if (found.is_null()) continue;
    std::set<std::int32_t> ids;
    for (const json& id : found.is_array() ? found : json::array({found})) {
      if (!id.is_number_integer()) {
        user_error("'{}': eos_token_id is {}, must be an id or a list of ids", (folder / name).string(), found.dump());
      }
      const auto value = id.get<std::int64_t>();
      if (value >= 0 && value <= INT32_MAX) ids.insert(static_cast<std::int32_t>(value));  // some say -1 for none
    }
    return ids;
  }
  return {};
}

void write_hugging_face_folder(
    const LlamaConfig& model, const HuggingFaceExport& options, const std::string& where,
    const nlohmann::ordered_json& more, const std::vector<TensorToWrite>& tensors,
    const std::function<std::vector<SafetensorsEntry>(std::size_t begin, std::size_t end)>& load,
    const fs::path& folder) {
  nlohmann::ordered_json config = hugging_face_config(model, options.dtype);
  nlohmann::ordered_json generation = {{"_from_model_config", true}};
  AtomicDirectory directory(folder);
  add_tokenizer(options.tokenizer.empty() ? options.tokenizer_files : read_tokenizer_files(options.tokenizer),
                options.tokenizer.empty() ? where : options.tokenizer.string(), directory.path(), config, generation);
  config.update(more);
  write_safetensors_folder(directory.path(), tensors, options.most_bytes, load, {{"format", "pt"}});
  write_file_atomic(directory.path() / kHuggingFaceConfigFile, config.dump(2) + "\n");
  write_file_atomic(directory.path() / kGenerationConfigFile, generation.dump(2) + "\n");
  directory.commit();
}

void export_hugging_face(const LlamaConfig& model, const TensorSource& weights, const HuggingFaceExport& options,
                         const fs::path& folder) {
  check_weights(model, weights);
  std::vector<TensorToWrite> tensors;
  for (const ParameterShape& parameter : parameter_shapes(model)) {
    for (const ParameterPart& part : parameter.parts) {
      std::uint64_t bytes = dtype_size(options.dtype);
      for (const std::int64_t dim : parameter.part_shape(part)) bytes *= static_cast<std::uint64_t>(dim);
      tensors.push_back({part.hf_name, bytes});
    }
  }
  std::deque<OwnedTensor> converted;  // of one file
  const auto load = [&](std::size_t begin, std::size_t end) {
    converted.clear();
    std::vector<SafetensorsEntry> entries;
    for (std::size_t i = begin; i < end; ++i) {
      const std::string& name = tensors[i].name;
      const std::vector<std::int64_t> shape = weights.shape(name);
      if (const auto bytes = weights.bytes_as(options.dtype, name); !bytes.empty()) {
        entries.push_back({name, dtype_name(options.dtype), shape, bytes});
        continue;
      }
      OwnedTensor values(DType::F32, shape);
      weights.read_floats(name, values);
      if (options.dtype != DType::F32) {
        const OwnedTensor wide = std::move(values);
        values = OwnedTensor(options.dtype, shape);
        convert(wide, values);
      }
      converted.push_back(std::move(values));
      entries.push_back(safetensors_entry(name, converted.back()));
    }
    return entries;
  };
  write_hugging_face_folder(model, options, weights.path().string(), nlohmann::ordered_json::object(), tensors, load,
                            folder);
}

}  // namespace nibble
