// The time of a training step, part by part, from FLOPs, bytes and a device's rates. Parts run one after another; each
// takes the longer of its arithmetic and its memory traffic.
#pragma once

#include <string>
#include <vector>

#include "nibble/cost/traffic.h"

namespace nibble {

struct Batch {
  std::int64_t sequences = 0;        ///< an optimizer step, on one device
  std::int64_t micro_sequences = 0;  ///< a pass; divides `sequences`
  std::int64_t seq = 0;
  double tokens() const { return static_cast<double>(sequences * seq); }
  double micro_tokens() const { return static_cast<double>(micro_sequences * seq); }
  double passes() const { return static_cast<double>(sequences) / static_cast<double>(micro_sequences); }
};
/// About 2^19 tokens a step in passes of about 2^14, at least one sequence each.
Batch default_batch(std::int64_t seq);

/// Bytes a parameter that an optimizer keeps and moves.
struct OptimizerLayout {
  std::string name;
  double master = 0;
  double gradient = 0;
  double first_moment = 0;
  double second_moment = 0;
  double traffic = 0;  ///< bytes a parameter that a step reads and writes, the norm for clipping included
  /// Of parameters outside linear layers (embedding, head, gains), 0 = as the others.
  double other_master = 0;
  double other_gradient = 0;
  double bytes() const { return master + gradient + first_moment + second_moment; }
};
/// "adamw": FP32 throughout, 16 bytes a parameter. "adamw-fp8": what nibble keeps by that name, FP16 master weights,
/// FP32 gradients, FP8 first and FP16 second moment, 9 bytes (and FP32 weights outside linear layers). "fp8-lm": FP16
/// master weights, FP8 gradients and first moment, FP16 second moment, 6 bytes (Peng et al. 2023). `gradients` is "f32"
/// or "bf16", the gradients of linear layers in the first two. UserError for another name.
OptimizerLayout optimizer_layout(const std::string& name, const std::string& gradients = "f32");

struct StepPart {
  std::string name;     ///< "mlp.down"
  std::string product;  ///< "fprop", or empty
  std::string path;     ///< unit, or several where blocks or stages differ
  double flops = 0;     ///< a step
  double bytes = 0;
  double seconds = 0;
};

/// The same seconds by when they are spent, gaps between launches not counted: what communication can hide behind.
struct StepPhases {
  double weights = 0;            ///< once, before the first pass: W is quantised, its average follows
  double embedding_forward = 0;  ///< of all passes, as the next ones
  std::vector<double> forward;   ///< by block
  double head = 0;               ///< forward and backward, which follow each other, and the final norm's
  std::vector<double> backward;  ///< by block
  double embedding_backward = 0;
  double optimizer = 0;
  double sum() const;
};

struct StepCost {
  std::vector<StepPart> parts;
  StepPhases phases;
  double tokens = 0;
  double model_flops = 0;  ///< LlamaConfig::flops_per_token
  double seconds = 0;
  double tokens_per_second() const { return tokens / seconds; }
};

/// Averaged over the recipe's stages. Counted on top of LlamaConfig::flops_per_token: the backward of attention
/// computes the scores again (5 products to the forward's 2), and all quantising. Of the phases: a third of the
/// elementwise work is forward, all blocks share it and attention alike, and DGE's factor counts as backward.
StepCost step_cost(const LlamaConfig& model, const Recipe& recipe, const DeviceSpec& device, const Batch& batch,
                   const OptimizerLayout& optimizer, const CostAssumptions& assumptions);

/// FLOPs and time of one product of a linear layer for `tokens` tokens, the outlier channels' own product and repeated
/// samples included; without quantising and without the sparse residual.
struct ProductCost {
  ProductPath path;
  double flops = 0;
  double bytes = 0;
  double seconds = 0;
};
ProductCost product_cost(const LinearRecipe& recipe, const LinearShape& shape, Product product, double tokens,
                         const DeviceSpec& device);

}  // namespace nibble
