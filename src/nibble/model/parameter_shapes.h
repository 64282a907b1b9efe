// What parameters a model has, and what they are called in the Hugging Face layout.
#pragma once

#include <string>
#include <vector>

#include "nibble/model/config.h"

namespace nibble {

/// A piece of a parameter that is a tensor of its own in the Hugging Face layout.
struct ParameterPart {
  std::string hf_name;    ///< "model.layers.0.self_attn.q_proj.weight"
  std::int64_t rows = 0;  ///< of the matrix; elements of a vector
};

struct ParameterShape {
  std::string name;                  ///< "layers.0.attention.qkv"
  std::vector<std::int64_t> shape;   ///< of a matrix or a vector
  bool decay = false;                ///< weight decay applies: matrices except the embedding; no gain, no bias
  std::vector<ParameterPart> parts;  ///< from the first row on
  /// Of a part: its rows and the parameter's columns, or its elements.
  std::vector<std::int64_t> part_shape(const ParameterPart& part) const;
};

/// In the order in which the model keeps them: embedding, the blocks, final norm, and the head where it is not tied.
/// Query, key and value matrices are one parameter, as are gate and up.
std::vector<ParameterShape> parameter_shapes(const LlamaConfig& model);

}  // namespace nibble
