#include "nibble/cost/memory.h"

#include <algorithm>
#include <cmath>

namespace nibble {

namespace {

constexpr double kHeadRows = 512;  // logits in memory at a time, as in the model

/// Bytes of the copies of W that the products read.
double working_copies(const LinearRecipe& recipe, const LinearShape& shape, const CostAssumptions& assumptions) {
  double bits = 0;
  for (const Operand operand : {Operand::FpropW, Operand::DgradW}) {
    const QuantSpec& spec = effective_spec(recipe, operand);
    const bool reused =
        recipe[operand].source == OperandSource::Fprop ||
        (operand == Operand::DgradW && !has_scale(spec.element) && !has_scale(recipe[Operand::FpropW].quant.element));
    if (reused && !(assumptions.transposed_copies && has_scale(spec.element))) continue;
    bits += stored_bits(spec, shape.inputs);
  }
  double bytes = bits / 8 * shape.weights();
  if (residual_density(recipe) > 0) bytes += 2 * shape.weights();  // W^T in BF16 for the residual's product
  if (recipe.weight_average.enabled()) bytes += 4 * shape.weights();
  return bytes;
}

struct StageMemory {
  double working = 0;       // fixed
  double saved_inputs = 0;  // a token
  double workspace = 0;     // a token: the largest block's
};

StageMemory stage_memory(const LlamaConfig& m, const Recipe& recipe, std::size_t stage,
                         const CostAssumptions& assumptions) {
  StageMemory memory;
  for (std::int64_t block = 0; block < m.layers; ++block) {
    double gradient_copies = 0;
    for (const LinearShape& shape : block_linears(m)) {
      const std::string name = fmt::format("layers.{}.{}", block, shape.name);
      const LinearRecipe& linear = recipe.resolve(name, block, m.layers, stage);
      memory.working += working_copies(linear, shape, assumptions);
      const double bits = saved_bits(linear, shape.inputs, assumptions);
      // The attended values are there in BF16 anyway, for attention's backward.
      const bool kept_anyway = shape.name == "attention.output" && bits == 16;
      if (!kept_anyway) memory.saved_inputs += bits / 8 * static_cast<double>(shape.inputs);
      double dy_bits = 0;
      for (const Operand operand : {Operand::DgradDy, Operand::WgradDy}) {
        const QuantSpec& spec = linear[operand].quant;
        if (has_scale(spec.element)) dy_bits += stored_bits(spec, shape.outputs);
      }
      gradient_copies = std::max(gradient_copies, dy_bits / 8 * static_cast<double>(shape.outputs));
    }
    const auto width = static_cast<double>(m.width);
    const double buffers =
        2 * static_cast<double>(m.ffn) + (4 + 2 + 2) * width + 2 * static_cast<double>(m.qkv_width());
    memory.workspace = std::max(memory.workspace, buffers + gradient_copies);
  }
  return memory;
}

}  // namespace

std::int64_t MemoryCost::largest_micro_batch(const DeviceSpec& device, std::int64_t seq) const {
  const double left = device.memory_bytes - fixed;
  return std::max<std::int64_t>(0,
                                static_cast<std::int64_t>(std::floor(left / (per_token * static_cast<double>(seq)))));
}

double saved_bits(const LinearRecipe& recipe, std::int64_t inputs, const CostAssumptions& assumptions) {
  const OperandSpec& x = recipe[Operand::FpropX];
  const OperandSpec& again = recipe[Operand::WgradX];
  const double mask = x.quant.trust_mask ? 1 : 0;
  if (again.source != OperandSource::HighPrecision) {
    double bits = stored_bits(x.quant, inputs);
    if (recipe.residual_in_wgrad) bits += 64 * residual_density(recipe);
    return bits;
  }
  if (!has_scale(again.quant.element)) return mask + stored_bits(again.quant, inputs);
  return mask + (assumptions.fused ? stored_bits(again.quant, inputs) : 16);
}

MemoryCost memory_cost(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                       const OptimizerLayout& optimizer, const CostAssumptions& assumptions) {
  const auto parameters = static_cast<double>(model.parameters());
  const auto width = static_cast<double>(model.width);
  const double micro = batch.micro_tokens();
  StageMemory most;
  double most_bytes = -1;
  for (const StageShare& stage : stage_shares(recipe, assumptions.monitored_from)) {
    const StageMemory memory = stage_memory(model, recipe, stage.stage, assumptions);
    const double bytes = memory.working + micro * (memory.saved_inputs + memory.workspace);
    if (bytes > most_bytes) {
      most = memory;
      most_bytes = bytes;
    }
  }
  // The stream before and after attention in FP32, q k v, attended and gate_up in BF16, and the statistics of two norms
  // and of attention's softmax in FP32.
  const double block_token = 8 * width + 2 * static_cast<double>(model.qkv_width()) + 2 * width +
                             4 * static_cast<double>(model.ffn) + 8 + 4 * static_cast<double>(model.heads);
  const double head_copy = 2 * static_cast<double>(model.vocab) * width;
  const double logits = (4 + 2) * static_cast<double>(model.vocab) * std::min(kHeadRows, micro);
  const double other_token = static_cast<double>(model.layers) * block_token + (4 + 2 + 2) * width;

  MemoryCost cost;
  cost.micro_tokens = micro;
  cost.fixed = optimizer.bytes() * parameters + most.working + head_copy + logits;
  cost.per_token = most.saved_inputs + other_token + most.workspace;
  cost.parts = {{"master weights", optimizer.master * parameters},
                {"gradients", optimizer.gradient * parameters},
                {"first moment", optimizer.first_moment * parameters},
                {"second moment", optimizer.second_moment * parameters},
                {"working copies of the weights", most.working + head_copy},
                {"saved inputs of the linears", most.saved_inputs * micro},
                {"other saved activations", other_token * micro},
                {"workspace of the backward", most.workspace * micro},
                {"logits", logits}};
  return cost;
}

}  // namespace nibble
