// The words of recipe files for the choices of QuantSpec and OperandSpec.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "nibble/recipe/recipe.h"

namespace nibble {

template <class E>
using Names = std::vector<std::pair<const char*, E>>;

const Names<ElementFormat>& element_names();
const Names<ScaleRule>& scale_names();
const Names<Rounding>& rounding_names();
const Names<Selection>& selection_names();
const Names<Hadamard::Signs>& sign_names();
const Names<ResidualMode>& residual_names();
const Names<OperandSource>& source_names();
const Names<OscillationReset::Criterion>& criterion_names();
const Names<Stage::Monitor>& monitor_names();

template <class E>
const char* name_of(const Names<E>& names, E value) {
  const auto found = std::find_if(names.begin(), names.end(), [&](const auto& entry) { return entry.second == value; });
  return found == names.end() ? "none" : found->first;
}

/// The operand's tensor: "X", "W" or "dY".
const char* tensor_name(Operand operand);
/// Whether the contraction of the operand's product runs down the columns of the operand's matrix as it is stored:
/// dgrad.w, wgrad.dy, wgrad.x.
bool contraction_runs_down(Operand operand);
/// The operand of fprop that may serve again in the place of dgrad.w and wgrad.x.
Operand fprop_counterpart(Operand operand);
/// The operand at the other side of the product.
Operand partner_of(Operand operand);

}  // namespace nibble
