// A recipe file; what it says must come back from the text that is kept with every run.
#include "nibble/recipe/recipe.h"

#include "fuzz/harness/target.h"
#include "nibble/recipe/describe.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  const Recipe recipe = parse_recipe(std::string(bytes), "input.toml");
  const Recipe again = must_succeed([&] { return parse_recipe(recipe.text, "kept.toml"); });
  check(differences(recipe, again).empty(), "a recipe's text says what the recipe does");
  recipe.resolve("layers.0.mlp.down", 0, 4, recipe.stages.size() - 1);
}

}  // namespace nibble::fuzz
