// What a LinearRecipe must agree on for the three products to be those of one layer.
#pragma once

#include <string>

#include "nibble/recipe/recipe.h"

namespace nibble {

/// Throws InternalError, naming `layer`, where the recipe can't be run: operands of a product in different bases, a
/// scale folded that does not lie along the contraction, and the like. parse_recipe refuses all of it with file and
/// line.
void require_runnable(const LinearRecipe& recipe, const std::string& layer);

}  // namespace nibble
