#include "nibble/train/stored_model.h"

#include <algorithm>

#include "nibble/data/chat_template.h"
#include "nibble/data/dataset.h"
#include "nibble/data/gguf_tokenizer.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"
#include "nibble/model/gguf_model.h"
#include "nibble/train/checkpoint_state.h"

namespace nibble {

namespace fs = std::filesystem;

bool holds_checkpoints(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / kStateFile, ignored) || fs::is_directory(path / kCheckpointsFolder, ignored);
}

LlamaConfig stored_config(const fs::path& path) {
  if (holds_checkpoints(path)) {
    const fs::path checkpoint = find_checkpoint(path);
    const TrainState state = read_stored_state(checkpoint).state;
    return read_train_config(ConfigTable::parse_text(state.config, checkpoint.string())).model;
  }
  return is_gguf(path) ? GgufModel(path).config() : load_llama_config(path);
}

void load_stored_weights(const fs::path& path, Llama& model) {
  if (holds_checkpoints(path) || is_gguf(path)) return StoredModel::open(path).load_weights_into(model);
  load_weights(path, model);
}

StoredModel StoredModel::open(const fs::path& path) {
  if (holds_checkpoints(path)) return open_checkpoint(path);
  if (fs::exists(path / kHuggingFaceConfigFile)) return of_hugging_face(path);
  if (is_gguf(path)) return of_gguf(path);
  user_error(
      "'{}' holds no model: name the folder of a run, one of its checkpoints, a folder of {} and safetensors, or a "
      "GGUF file",
      path.string(), kHuggingFaceConfigFile);
}

StoredModel StoredModel::open_checkpoint(const fs::path& path) {
  const fs::path checkpoint = find_checkpoint(path);
  TrainState state = load_state(checkpoint);
  const TrainConfig config = read_train_config(ConfigTable::parse_text(state.config, checkpoint.string()));
  StoredModel model(checkpoint, config.model);
  model.tokenizer_ = config.data;
  model.seed_ = config.seed;
  model.state_ = std::move(state);
  return model;
}

StoredModel StoredModel::of_hugging_face(const fs::path& path) {
  StoredModel model(path, read_hugging_face_config(path));
  model.config_.seq = model.config_.context;
  model.tokenizer_ = path;
  return model;
}

StoredModel StoredModel::of_gguf(const fs::path& path) {
  auto gguf = std::make_shared<const GgufModel>(path);
  StoredModel model(path, gguf->config());
  model.config_.seq = model.config_.context;
  model.gguf_ = std::move(gguf);
  return model;
}

void StoredModel::set_seq(std::int64_t seq) {
  const std::int64_t longest = std::max(config_.seq, config_.context);
  if (seq < 1 || seq > longest) {
    user_error("a sequence of {} tokens; '{}' takes 1 to {}", seq, path_.string(), longest);
  }
  config_.seq = seq;
}

std::optional<Recipe> StoredModel::recipe() const {
  if (!state_) return std::nullopt;
  return parse_recipe(state_->recipe, path_.string());
}

bool StoredModel::was_trained_with(const Recipe& recipe) const {
  if (!state_ || state_->recipe.empty()) return false;
  // An older nibble kept the recipe in other words.
  return state_->recipe == recipe.text || parse_recipe(state_->recipe, path_.string()).text == recipe.text;
}

fs::path StoredModel::tokenizer_place(const fs::path& instead) const {
  const bool inside = instead.empty() && gguf_ != nullptr;
  const fs::path& place = inside ? path_ : instead.empty() ? tokenizer_ : instead;
  if (inside ? !has_gguf_tokenizer(gguf_->file()) : !fs::exists(place)) {
    user_error("there is no tokenizer at '{}': give the model's with --tokenizer", place.string());
  }
  return place;
}

Tokenizer StoredModel::tokenizer(const fs::path& instead) const {
  const fs::path place = tokenizer_place(instead);
  const bool inside = instead.empty() && gguf_ != nullptr;
  Tokenizer tokenizer = inside ? gguf_tokenizer(gguf_->file()) : Tokenizer::load(place);
  // A model's table of embeddings may have rows to spare, which no token uses.
  if (tokenizer.vocab_size() > config_.vocab) {
    user_error("the tokenizer '{}' has {} pieces, the model a vocabulary of {}: give the model's own with --tokenizer",
               place.string(), tokenizer.vocab_size(), config_.vocab);
  }
  return tokenizer;
}

std::set<std::int32_t> StoredModel::end_ids(const Tokenizer& tokenizer) const {
  std::set<std::int32_t> ids = gguf_ ? gguf_end_ids(gguf_->file()) : read_end_ids(tokenizer_);
  if (ids.empty() && is_checkpoint() && fs::exists(tokenizer_ / kDatasetMetaFile)) {
    for (const std::string& token : chat_end_tokens(read_dataset_meta(tokenizer_).chat_template)) {
      if (const std::int32_t id = tokenizer.find_piece(token); id >= 0) ids.insert(id);
    }
  }
  ids.insert(tokenizer.eos_id());
  return ids;
}

void StoredModel::load_weights_into(Llama& model) const {
  if (gguf_) return load_weights(*gguf_, model);
  load_weights(path_, model);
}

std::unique_ptr<Llama> StoredModel::load(const std::optional<Recipe>& recipe, Device device) const {
  auto model =
      recipe ? std::make_unique<Llama>(config_, *recipe, seed_, DType::BF16, device)
             : std::make_unique<Llama>(config_, unquantised_recipe(ElementFormat::F32), seed_, DType::F32, device);
  load_weights_into(*model);
  if (recipe && was_trained_with(*recipe)) load_recipe_state(path_, *state_, *model);
  model->prepare(0, false);
  return model;
}

std::string StoredModel::identity() const {
  if (state_) return read_file(path_ / kStateFile);
  if (gguf_) return hex64(xxh3_64(MappedFile(path_).bytes()));
  Xxh3Stream stream;
  const SafetensorsFolder weights(path_);
  for (const std::string& name : weights.names()) {
    stream.update(std::as_bytes(std::span(name)));
    for (const std::span<const std::byte> piece : weights.pieces(name)) stream.update(piece);
  }
  return read_file(path_ / kHuggingFaceConfigFile) + hex64(stream.digest());
}

}  // namespace nibble
