// What a LinearRecipe must agree on for the three products to be those of one layer, and what follows for the operands
// that Linear keeps or makes together, and the plan of memory counts.
#pragma once

#include <string>

#include "nibble/recipe/recipe.h"

namespace nibble {

/// Throws InternalError, naming `layer`, where the recipe can't be run: operands of a product in different bases, a
/// scale folded that does not lie along the contraction, and the like. parse_recipe refuses all of it with file and
/// line.
void require_runnable(const LinearRecipe& recipe, const std::string& layer);

/// Whether wgrad takes X as it was given: quantised again, or in high precision.
bool wgrad_reads_input(const LinearRecipe& recipe);

/// Whether dX is rotated back: it comes out in fprop's rotated basis, or the trust mask of X acts there.
bool rotates_dx_back(const LinearRecipe& recipe);
/// Whether dW is: likewise, or the estimator of W's rounding acts there.
bool rotates_dw_back(const LinearRecipe& recipe);

/// Whether one quantised dY serves dgrad and wgrad: nothing in their specs tells them apart.
bool shares_gradient(const LinearRecipe& recipe);

/// Whether the dY of dgrad and that of wgrad, which differ, can be quantised together: wgrad's is one sample and takes
/// no scales of an X that is not quantised yet.
bool pairs_gradients(const LinearRecipe& recipe);

}  // namespace nibble
