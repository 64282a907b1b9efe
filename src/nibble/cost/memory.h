// What training keeps in a device's memory, by part. Every device holds the whole model: nothing is sharded, offloaded
// or recomputed.
#pragma once

#include "nibble/cost/step.h"

namespace nibble {

struct MemoryPart {
  std::string name;
  double bytes = 0;
};

struct MemoryCost {
  std::vector<MemoryPart> parts;
  double micro_tokens = 0;
  double fixed = 0;      ///< what does not grow with the tokens of a pass
  double per_token = 0;  ///< what does, for a token
  double total() const { return fixed + per_token * micro_tokens; }
  /// The most sequences a pass that fit into the device's memory, at least 0.
  std::int64_t largest_micro_batch(const DeviceSpec& device, std::int64_t seq) const;
};

/// Bits that a linear layer saves for its backward, for each value of X:
///
///   wgrad.x = fprop.x, or quantised from it:  fprop.x's codes, scales and mask, and its sparse residual (64 bits an
///   entry) wgrad.x quantised from X:                 wgrad.x's codes, made in the forward (fused), else X in BF16
///   unquantised:                              16
///
/// and fprop.x's trust mask where it has one.
double saved_bits(const LinearRecipe& recipe, std::int64_t inputs, const CostAssumptions& assumptions);

/// Of the recipe's stage that needs most. Parts: master weights, gradients, moments, working copies of the weights (the
/// quantised or BF16 ones that products read), saved activations (the linears' inputs; besides, for each block and
/// token, the FP32 residual stream before and after attention, and in BF16 q, k, v, the attended values and SwiGLU's
/// input), the backward's workspace, and logits in chunks of 512 rows.
MemoryCost memory_cost(const LlamaConfig& model, const Recipe& recipe, const Batch& batch,
                       const OptimizerLayout& optimizer, const CostAssumptions& assumptions);

}  // namespace nibble
