// What export writes, for those who add to its config.json.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "nibble/model/hugging_face.h"

namespace nibble {

/// config.json of the model, whose weights are stored as `dtype` (F32, BF16). The family is the first that has what the
/// model has: llama, qwen2 with biases, qwen3 with QK norm; UserError where it has both, which no family does.
nlohmann::ordered_json hugging_face_config(const LlamaConfig& model, DType dtype);

/// export_hugging_face with other tensors: those of write_safetensors_folder. The keys of `more` are added to
/// config.json; `where` names options.tokenizer_files in messages.
void write_hugging_face_folder(
    const LlamaConfig& model, const HuggingFaceExport& options, const std::string& where,
    const nlohmann::ordered_json& more, const std::vector<TensorToWrite>& tensors,
    const std::function<std::vector<SafetensorsEntry>(std::size_t begin, std::size_t end)>& load,
    const std::filesystem::path& folder);

}  // namespace nibble
