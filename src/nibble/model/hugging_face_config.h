// config.json of the Hugging Face tools: which models nibble can run. hugging_face_json.h writes it.
//
// Read are the families llama (Llama 1 to 3.3, TinyLlama, SmolLM2), mistral, qwen2 (Qwen2, Qwen2.5) and qwen3, by
// model_type and architectures. Everything that would change what the model computes and that nibble does not do is
// refused by its name: another activation, biases of other layers, RoPE scalings but linear and llama3, quantised
// weights, dropout. A sliding window limits the context, within which it changes nothing.
#pragma once

#include <filesystem>

#include "nibble/model/config.h"

namespace nibble {

inline constexpr const char* kHuggingFaceConfigFile = "config.json";

/// Reads FOLDER/config.json. The training sequence length, which the file does not have, is the model's context, 2048
/// at most. UserError, which names the file and the key, for what is missing, wrong or not supported.
LlamaConfig read_hugging_face_config(const std::filesystem::path& folder);

}  // namespace nibble
