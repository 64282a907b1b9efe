#include "nibble/train/import.h"

#include <deque>

#include "nibble/train/checkpoint.h"
#include "nibble/train/config.h"

namespace nibble {

namespace fs = std::filesystem;

void import_hugging_face(const fs::path& folder, const fs::path& run, std::int64_t seq) {
  TrainConfig config;
  config.model = read_hugging_face_config(folder);
  if (seq < 0 || seq > config.model.context) {
    user_error("a sequence of {} tokens; '{}' takes 1 to {}", seq, folder.string(), config.model.context);
  }
  if (seq > 0) config.model.seq = seq;
  config.data = fs::canonical(folder);
  config.steps = config.batch = config.micro_batch = 1;

  const SafetensorsFolder weights(folder);
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
  save_weights(run, state, entries);
}

void export_checkpoint(const fs::path& checkpoint, const HuggingFaceExport& options, const fs::path& folder) {
  const fs::path from = find_checkpoint(checkpoint);
  const TrainState state = load_state(from);
  const TrainConfig config = read_train_config(ConfigTable::parse_text(state.config, from.string()));
  export_hugging_face(config.model, SafetensorsFolder(from), options, folder);
}

}  // namespace nibble
