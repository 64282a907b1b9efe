// Recipes and devices for the tests of this room.
#pragma once

#include <string>

#include "nibble/cost/step.h"

namespace nibble {

inline DeviceSpec device(const std::string& name) {
  return load_device(std::string(NIBBLE_SOURCE_DIR "/devices/") + name + ".toml");
}

/// Runs of one model on round figures.
inline LlamaConfig model_1b() {
  LlamaConfig model;
  model.layers = 24;
  model.width = 2048;
  model.heads = model.kv_heads = 16;
  model.ffn = 5632;
  model.vocab = 32000;
  model.seq = 2048;
  return model;
}

inline QuantSpec e2m1_rows() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  return spec;
}

inline QuantSpec mxfp4(bool transposed = false) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::block(1, 32);
  spec.scale = ScaleRule::Ceil6;
  spec.transposed = transposed;
  return spec;
}

inline QuantSpec nvfp4(bool transposed = false) {
  QuantSpec spec = mxfp4(transposed);
  spec.granularity = Granularity::block(1, 16);
  spec.scale = ScaleRule::Nvfp4;
  return spec;
}

/// All six operands by `make(transposed)`, blocks along each product's contraction, from high precision.
template <class Make>
Recipe block_recipe(Make make) {
  Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  recipe.name = "blocks";
  LinearRecipe& linear = recipe.stages.front().linear.back();
  for (const Operand operand : kAllOperands) {
    const bool transposed = operand == Operand::DgradW || operand == Operand::WgradDy || operand == Operand::WgradX;
    linear[operand].quant = make(transposed);
    linear[operand].source = OperandSource::HighPrecision;
  }
  return recipe;
}

/// Vector-wise E2M1 in all operands, dY folded with the partner's scales.
inline Recipe vector_recipe() {
  Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  recipe.name = "rows";
  LinearRecipe& linear = recipe.stages.front().linear.back();
  for (const Operand operand : kAllOperands) linear[operand].quant = e2m1_rows();
  linear[Operand::WgradDy].quant.granularity = Granularity::per_column();
  for (const Operand dy : {Operand::DgradDy, Operand::WgradDy}) linear[dy].fold_partner_scales = true;
  for (const Operand again : {Operand::DgradW, Operand::WgradX}) linear[again].source = OperandSource::Fprop;
  return recipe;
}

inline LinearRecipe& linear_of(Recipe& recipe) { return recipe.stages.front().linear.back(); }

}  // namespace nibble
