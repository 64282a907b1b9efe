// The theoretical model in which recipes are compared where no hardware decides.
#pragma once

#include "nibble/model/config.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

/// Time of a training step over that of the BF16 recipe, which is 1. Time is FLOPs over rate: 1 for BF16, 2 for 8 bits,
/// 4 for four bits, by the wider operand of each product of a linear layer, and 1 for everything else (head, causal
/// attention, elementwise), forward and backward. As Wang et al. 2025 count them, elementwise operations at rate 1:
///
/// - DGE: 8 for each output value of a linear layer;
/// - OCC: the residual's product, 2 (1 - alpha) of the dense one's FLOPs, at FP8's rate, in fprop, and in wgrad where
/// it has
///   its part there;
/// - quantising X and dY: quantise_ops (operand.h) for each value. W is quantised once a step, which a large batch
/// makes
///   nothing.
///
/// Stages count by their share of the steps.
double theoretical_relative_cost(const LlamaConfig& model, const Recipe& recipe);

}  // namespace nibble
