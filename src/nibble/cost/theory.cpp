#include "nibble/cost/theory.h"

#include "nibble/cost/operand.h"
#include "nibble/cost/traffic.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr double kDgeOperations = 8;
constexpr double kFp8Rate = 2;

double rate_of(int bits) { return bits <= 4 ? 4 : bits <= 8 ? 2 : bits <= 16 ? 1 : 0.5; }

/// A token.
double linear_time(const LinearRecipe& recipe, const LinearShape& shape) {
  const double flops = 2 * shape.weights();
  const auto n = static_cast<double>(shape.outputs);
  const auto k = static_cast<double>(shape.inputs);
  double time = 0;
  for (const Product product : kAllProducts) {
    const double samples = product == Product::Wgrad ? recipe[Operand::WgradDy].samples : 1;
    time += samples * flops / rate_of(product_bits(recipe, product));
    if (product != Product::Dgrad) {
      time += 2 * outlier_columns(recipe, shape.inputs) * n / kFp8Rate;
    }
  }
  for (const Operand operand : {Operand::FpropX, Operand::WgradX, Operand::DgradDy, Operand::WgradDy}) {
    if (recipe[operand].source == OperandSource::Fprop) continue;
    const bool is_x = operand == Operand::FpropX || operand == Operand::WgradX;
    const double samples = operand == Operand::WgradDy ? recipe[operand].samples : 1;
    time += samples * quantise_ops(recipe[operand].quant) * (is_x ? k : n);
  }
  if (recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge) time += kDgeOperations * n;
  const double residual_products = recipe.residual_in_wgrad ? 2 : 1;
  return time + residual_products * residual_density(recipe) * flops / kFp8Rate;
}

/// What no recipe changes, a token: head, causal attention core, norms (4 a value), rotary embedding (3), biases
/// (1), norms of heads (4), SwiGLU (5) and residual additions (1), the backward at twice the forward.
double other_time(const LlamaConfig& m) {
  const auto layers = static_cast<double>(m.layers);
  const auto width = static_cast<double>(m.width);
  const double rotated = static_cast<double>((m.heads + m.kv_heads) * m.head_dim());
  const double extras = (m.qkv_bias ? static_cast<double>(m.qkv_width()) : 0) + (m.qk_norm ? 4 * rotated : 0);
  const double elementwise =
      layers * (2 * 4 * width + 3 * rotated + extras + 5 * static_cast<double>(m.ffn) + 2 * width) + 4 * width;
  const double core = layers * 2 * static_cast<double>(m.attention_width()) * static_cast<double>(m.seq);
  const double head = 2 * static_cast<double>(m.vocab) * width;
  return 3 * (elementwise + core + head);
}

double step_time(const LlamaConfig& model, const Recipe& recipe) {
  double time = other_time(model);
  for (const StageShare& stage : stage_shares(recipe, CostAssumptions{}.monitored_from)) {
    for (std::int64_t block = 0; block < model.layers; ++block) {
      for (const LinearShape& shape : block_linears(model)) {
        const std::string name = fmt::format("layers.{}.{}", block, shape.name);
        time += stage.share * linear_time(recipe.resolve(name, block, model.layers, stage.stage), shape);
      }
    }
  }
  return time;
}

}  // namespace

double theoretical_relative_cost(const LlamaConfig& model, const Recipe& recipe) {
  return step_time(model, recipe) / step_time(model, unquantised_recipe(ElementFormat::BF16));
}

}  // namespace nibble
