// Models in the layout of the Hugging Face tools: a folder of config.json and safetensors. What runs one:
//
//   Llama model(read_hugging_face_config(folder), recipe, seed, dtype, device);
//   load_weights(folder, model);
//
// nibble's checkpoints keep their weights under the same names and in the same order of rows: RoPE pairs dimension j of
// a head with j + head_dim / 2 in both.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nibble/io/safetensors_folder.h"
#include "nibble/model/hugging_face_config.h"
#include "nibble/model/llama.h"

namespace nibble {

/// Holds the tensors against the model: UserError, which names the tensor, for one that is missing, has another shape,
/// or that the model has no use for. Passed over are RoPE's frequencies (rotary_emb.inv_freq), which some old
/// checkpoints hold, and the head of a model that has it tied.
void check_weights(const LlamaConfig& model, const TensorSource& weights);

/// The parameters under their Hugging Face names, read as F32. UserError as by check_weights. Other parts of the model
/// stay as they are.
void load_weights(const TensorSource& weights, Llama& model);
/// The parameters of a folder, a checkpoint's or one of the Hugging Face tools: F32, BF16 or F16.
void load_weights(const std::filesystem::path& folder, Llama& model);

struct HuggingFaceExport {
  DType dtype = DType::F32;                  ///< of the weights: F32, which is exact, or BF16
  std::uint64_t most_bytes = 5'000'000'000;  ///< of a file; above that the weights are in several
  std::filesystem::path tokenizer{};         ///< folder whose tokenizer files go along; empty = none
  /// In place of a folder: the texts of its files by name.
  std::map<std::string, std::string> tokenizer_files{};
};

/// Writes `folder`, all or nothing: config.json, generation_config.json, the weights (F32) and the tokenizer's files.
/// The ids of the tokens that begin and end a text are those of the tokenizer folder's config.json, or else of its
/// generation_config.json.
/// UserError where the folder is there already, the weights are not the model's, or no family has what the model has.
void export_hugging_face(const LlamaConfig& model, const TensorSource& weights, const HuggingFaceExport& options,
                         const std::filesystem::path& folder);

/// The tokenizer's files in a folder, with config.json and generation_config.json, as export_hugging_face takes them.
/// UserError where it has none of a tokenizer.
std::map<std::string, std::string> read_tokenizer_files(const std::filesystem::path& folder);

/// The tokens that end a text or a turn: eos_token_id, an id or a list, of the folder's generation_config.json, or else
/// of its config.json. None where neither names one; UserError where it is something else.
std::set<std::int32_t> read_end_ids(const std::filesystem::path& folder);

}  // namespace nibble
