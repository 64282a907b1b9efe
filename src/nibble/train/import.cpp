#include "nibble/train/import.h"

#include <deque>

#include "nibble/data/gguf_tokenizer.h"
#include "nibble/data/tokenizer_files.h"
#include "nibble/model/gguf_model.h"
#include "nibble/train/stored_model.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// Writes the checkpoint of a model whose tokenizer is in the folder `data`, and `files` with it.
void save_imported(const LlamaConfig& model, const TensorSource& weights, const fs::path& data, const fs::path& run,
                   std::int64_t seq, const std::map<std::string, std::string>& files) {
  TrainConfig config;
  config.model = model;
  if (seq < 0 || seq > config.model.context) {
    user_error("a sequence of {} tokens; '{}' takes 1 to {}", seq, weights.path().string(), config.model.context);
  }
  if (seq > 0) config.model.seq = seq;
  config.data = data;
  config.steps = config.batch = config.micro_batch = 1;

  check_weights(config.model, weights);
  std::deque<OwnedTensor> values;
  std::vector<SafetensorsEntry> entries;
  for (const ParameterShape& parameter : parameter_shapes(config.model)) {
    for (const ParameterPart& part : parameter.parts) {
      values.emplace_back(DType::F32, parameter.part_shape(part));
      weights.read_floats(part.hf_name, values.back());
      entries.push_back(safetensors_entry(part.hf_name, values.back()));
    }
  }
  TrainState state;
  state.config = to_toml(config);
  state.recipe = load_recipe(find_recipe(config.recipe)).text;
  save_weights(run, state, entries, files);
}

std::map<std::string, std::string> tokenizer_files_of(const GgufModel& model) {
  if (!has_gguf_tokenizer(model.file())) return {};
  return gguf_tokenizer_files(model.file());
}

}  // namespace

void import_hugging_face(const fs::path& folder, const fs::path& run, std::int64_t seq) {
  const LlamaConfig model = read_hugging_face_config(folder);
  save_imported(model, SafetensorsFolder(folder), fs::canonical(folder), run, seq, {});
}

void import_gguf(const fs::path& file, const fs::path& run, std::int64_t seq) {
  const GgufModel model(file);
  save_imported(model.config(), model, weights_checkpoint(run), run, seq, tokenizer_files_of(model));
}

void convert_to_hugging_face(const fs::path& from, HuggingFaceExport options, const fs::path& folder) {
  if (fs::is_regular_file(from)) {
    const GgufModel model(from);
    if (options.tokenizer.empty()) options.tokenizer_files = tokenizer_files_of(model);
    export_hugging_face(model.config(), model, options, folder);
    return;
  }
  const LlamaConfig model = read_hugging_face_config(from);
  if (options.tokenizer.empty() && !find_tokenizer_file(from).empty()) options.tokenizer = from;
  export_hugging_face(model, SafetensorsFolder(from), options, folder);
}

void export_checkpoint(const fs::path& checkpoint, const HuggingFaceExport& options, const fs::path& folder) {
  const StoredModel model = StoredModel::open_checkpoint(checkpoint);
  export_hugging_face(model.config(), SafetensorsFolder(model.path()), options, folder);
}

}  // namespace nibble
