// Weights of linear layers in the four-bit formats that models are served in:
//
//   NVFP4   value = E2M1(code) * E4M3(scale of 16 columns of a row) * tensor scale
//   MXFP4   value = E2M1(code) * 2^(scale of 32 columns of a row - 127)
//
// Where the recipe multiplied with such codes on forward, the served model has exactly these: the forward of training
// and that of the server agree, which is what FP4 training is for. Layers that such a recipe kept in high precision
// stay so. All other models are quantised by the format's own rule, all layers of their blocks:
//
//   MXFP4   scale 2^(floor(log2 amax) - 2) (OCP MX 1.0), elements to nearest even
//   NVFP4   s_enc = 2^floor(log2(6 * 448 / amax of the matrix)), scale E4M3(amax * s_enc / 6), elements to nearest even
//
// s_enc is a power of two, so that every reader finds the same floats: some multiply by the tensor scale, some divide
// by its inverse, some scale the product. Scales of blocks have the same precision wherever they lie between 2^-6 and
// 448.
//
// What is quantised is the parameter of the model: query, key and value together, and gate and up, with one tensor
// scale. Servers multiply with these matrices together, too, and want one scale for them.
#pragma once

#include <string>
#include <vector>

#include "nibble/io/tensor_source.h"
#include "nibble/model/parameter_shapes.h"
#include "nibble/quant/qtensor.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

enum class ServingFormat : std::uint8_t { Nvfp4, Mxfp4 };
const char* serving_format_name(ServingFormat format);  ///< "nvfp4", "mxfp4"
/// Columns that share a scale: 16, 32.
std::int64_t serving_block(ServingFormat format);

/// Which rule quantises.
enum class ServingRule : std::uint8_t {
  Auto,       ///< AsTrained where the recipe's forward has the format in some layer, else Standard
  AsTrained,  ///< UserError where it has it in none
  Standard,
};

/// What becomes of one linear layer.
struct ServedLinear {
  enum class Kind : std::uint8_t { Standard, AsTrained, HighPrecision };
  std::string name;  ///< of the layer: that of the parameter, "layers.0.attention.qkv"
  Kind kind = Kind::Standard;
  QuantSpec spec;  ///< of AsTrained
};

struct ServingPlan {
  ServingFormat format = ServingFormat::Nvfp4;
  std::vector<ServedLinear> linears;                             ///< of every block: qkv, output, gate_up, down
  const ServedLinear* find(const std::string& parameter) const;  ///< nullptr for what is no linear layer of a block
  std::int64_t count(ServedLinear::Kind kind) const;
  /// "24 linear layers with the codes of recipe nvfp4, 4 kept in high precision as it has them".
  std::string describe(const Recipe& recipe) const;
};

/// Why the codes that the spec makes are not the format's; empty where they are. `layer` is the recipe of its layer.
std::string why_not_served(const LinearRecipe& layer, ServingFormat format);

/// UserError, which names the layer, where a matrix is not whole blocks of `columns` (a multiple of the format's).
ServingPlan plan_serving(const LlamaConfig& model, const Recipe& recipe, std::size_t stage, ServingFormat format,
                         ServingRule rule, std::int64_t columns);

/// A quantised matrix [rows, cols]: what the formats store, with a scale for every row and block.
struct ServedWeight {
  OwnedTensor codes;          ///< U8 [rows, cols / 2]: column 2 j in the low nibble of byte j
  OwnedTensor scales;         ///< U8 [rows, cols / block]: E4M3 without sign, or E8M0
  float tensor_scale = 1.0f;  ///< of NVFP4
};
/// w F32 [rows, cols] on the CPU. InternalError where the layer is one of high precision.
ServedWeight quantise_for_serving(const Tensor& w, const ServedLinear& linear, ServingFormat format);

/// Parameters of a model as they are stored somewhere. It keeps the last one: a server's tensors are parts of them.
class ServedSource {
 public:
  ServedSource(const TensorSource& weights, ServingFormat format) : weights_(weights), format_(format) {}
  /// F32, all parts together.
  const Tensor& parameter(const ParameterShape& parameter);
  const ServedWeight& quantised(const ParameterShape& parameter, const ServedLinear& linear);

 private:
  const TensorSource& weights_;
  ServingFormat format_;
  std::string name_, quantised_name_;  // of what is kept
  OwnedTensor values_;
  ServedWeight served_;
};

}  // namespace nibble
