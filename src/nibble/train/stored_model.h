// A trained model at a path, whatever wrote it, and how to get it into memory:
//
//   RUN/                          its newest checkpoint that validates (train/checkpoint.h)
//   RUN/checkpoints/step-.../     that checkpoint
//   FOLDER/                       config.json, safetensors and a tokenizer's files, as the Hugging Face tools keep them
//                                 (model/hugging_face.h)
//   FILE.gguf                     a model of llama.cpp with its tokenizer (model/gguf_model.h)
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "nibble/data/tokenizer.h"
#include "nibble/model/hugging_face.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/config.h"

namespace nibble {

class GgufModel;

/// Whether the path is a run or a checkpoint.
bool holds_checkpoints(const std::filesystem::path& path);
/// The shape of the model there, without a look at its weights: of a run or checkpoint, a GGUF file, or what
/// load_llama_config reads.
LlamaConfig stored_config(const std::filesystem::path& path);
/// The weights of a model that StoredModel::open takes, or of a folder that holds nothing but safetensors; a
/// checkpoint's files are checked. UserError where they are not `model`'s.
void load_stored_weights(const std::filesystem::path& path, Llama& model);

class StoredModel {
 public:
  /// Reads what describes the model; of a checkpoint it also checks the files. UserError where there is no model, or
  /// none that nibble can run.
  static StoredModel open(const std::filesystem::path& path);
  /// The same of a run or a checkpoint; UserError for anything else.
  static StoredModel open_checkpoint(const std::filesystem::path& path);

  /// The checkpoint's folder, or the folder or file that was named.
  const std::filesystem::path& path() const { return path_; }
  /// `seq` tokens are what it reads at most: as in its training; of a model that nibble did not train, its context.
  const LlamaConfig& config() const { return config_; }
  /// Lets it read `seq` tokens; UserError outside 1 to the positions that it knows.
  void set_seq(std::int64_t seq);

  /// Whether it is a checkpoint of nibble.
  bool is_checkpoint() const { return state_.has_value(); }
  /// Of nibble's training; 0 where there was none.
  std::int64_t step() const { return state_ ? state_->step : 0; }
  /// Of stochastic rounding and random signs: that of the training, else the default.
  std::uint64_t seed() const { return seed_; }
  /// What a checkpoint was trained with.
  std::optional<Recipe> recipe() const;
  /// Of that recipe, in which the checkpoint was written.
  std::size_t stage() const { return state_ ? state_->stage.stage : 0; }

  /// The one of the training data or of the model's folder or file, or another: a file or folder as Tokenizer::load
  /// takes it. UserError where there is none, and where it has more tokens than the model.
  Tokenizer tokenizer(const std::filesystem::path& instead = {}) const;
  /// The file or folder that `tokenizer` reads. UserError where there is nothing.
  std::filesystem::path tokenizer_place(const std::filesystem::path& instead = {}) const;

  /// Whether texts of one's own begin with <s>: where the tokenizer of a model that nibble did not train says so.
  bool texts_begin_with_bos(const Tokenizer& tokenizer) const { return !is_checkpoint() && tokenizer.adds_bos(); }

  /// Tokens with which it ends a text or its turn: the tokenizer's </s>, those that the model's own files name
  /// (read_end_ids, gguf_end_ids), and, where it was trained on conversations, those of their chat template.
  std::set<std::int32_t> end_ids(const Tokenizer& tokenizer) const;

  /// Reads the parameters. UserError where they are not the model's; other parts of `model` stay as they are.
  void load_weights_into(Llama& model) const;

  /// The model ready for passes without a backward. Linear layers run `recipe` and the rest BF16, as in training; where
  /// there is none, everything is F32. The recipe that a checkpoint was trained with runs the stage and the state that
  /// it had then, any other one its first stage.
  std::unique_ptr<Llama> load(const std::optional<Recipe>& recipe, Device device) const;

  /// Equal where the weights and their description are, for logs of results. Reads all weights but a checkpoint's,
  /// whose checksums it has.
  std::string identity() const;

 private:
  StoredModel(std::filesystem::path path, LlamaConfig config) : path_(std::move(path)), config_(std::move(config)) {}
  static StoredModel of_hugging_face(const std::filesystem::path& path);
  static StoredModel of_gguf(const std::filesystem::path& path);
  bool was_trained_with(const Recipe& recipe) const;

  std::filesystem::path path_;
  LlamaConfig config_;
  std::filesystem::path tokenizer_;  // where the model's own should be
  std::uint64_t seed_ = TrainConfig{}.seed;
  std::optional<TrainState> state_;        // of a checkpoint
  std::shared_ptr<const GgufModel> gguf_;  // of a GGUF file
};

}  // namespace nibble
