// The config.json that an exported model gets (hugging_face_config.cpp).
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "nibble/model/config.h"

namespace nibble {

/// config.json of the model, whose weights are stored as `dtype` (F32, BF16). The family is the first that has what the
/// model has: llama, qwen2 with biases, qwen3 with QK norm; UserError where it has both, which no family does.
nlohmann::ordered_json hugging_face_config(const LlamaConfig& model, DType dtype);

}  // namespace nibble
