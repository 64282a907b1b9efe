// The tables of a recipe file that say how a linear layer runs -> LinearRecipe. The top level, an entry of [[modules]]
// and an entry of [[stages]] have the same ones; each later one replaces what it names in what held before.
#pragma once

#include <array>
#include <string>

#include "nibble/io/config_table.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

/// Where a part of a LinearRecipe was written: its table, or the table whose shorthand key set it.
struct Written {
  ConfigTable table;
  std::string shorthand;

  /// Blames `key` of the table, or the shorthand.
  [[noreturn]] void fail(const std::string& key, const std::string& message) const {
    table.fail(shorthand.empty() ? key : shorthand, message);
  }
};

struct WrittenLinear {
  LinearRecipe recipe;
  std::array<Written, 6> operands;
  Written weight_gradient;
  Written outlier_channels;
  Written weight_average;
  Written oscillation_reset;
  std::string context;  ///< which stage and modules, for messages: "" or " (in the stage from 0.92)"

  const Written& at(Operand o) const { return operands[static_cast<std::size_t>(o)]; }
};

/// Everything in BF16, written nowhere but in `root`.
WrittenLinear unwritten_linear(const ConfigTable& root);

/// Replaces in `linear` what the table names: whole operands, and whole tables [weight_gradient], [outlier_channels],
/// [weight_average], [oscillation_reset]. The shorthands come first:
///
///   forward = "bf16"    fprop.x and fprop.w unquantised, and everything goes that belongs to their rounding: the
///                       estimator of the weight gradient, outlier channels, weight average, oscillation resets, and
///                       scales that fprop's operands lent to dY
///   backward = "bf16"   the four operands of dgrad and wgrad unquantised, from the tensors themselves: no residual of
///                       fprop.x is added to what has it already
void override_linear(WrittenLinear& linear, const ConfigTable& table, bool shorthands);

/// Refuses combinations of operands that are wrong together; if `unbiased`, also those whose backward is biased.
void check_linear(const WrittenLinear& linear, bool unbiased);

}  // namespace nibble
