#include "nibble/recipe/recipe.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "nibble/io/data_file.h"
#include "nibble/recipe/names.h"

namespace nibble {

namespace {

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return fnmatch(p.c_str(), name.c_str(), 0) == 0; });
}

}  // namespace

bool Recipe::is_exempt(const std::string& layer, std::int64_t block, std::int64_t blocks) const {
  const std::int64_t last =
      std::max<std::int64_t>(exempt_last_blocks, std::llround(exempt_last_share * static_cast<double>(blocks)));
  return block < exempt_first_blocks || block >= blocks - last || matches_any(exempt, layer);
}

const LinearRecipe& Recipe::resolve(const std::string& layer, std::int64_t block, std::int64_t blocks,
                                    std::size_t stage) const {
  if (is_exempt(layer, block, blocks)) return high_precision;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    if (matches_any(modules[i], layer)) return stages[stage].linear[i];
  }
  return stages[stage].linear.back();
}

bool Recipe::has_monitor() const {
  return std::any_of(stages.begin(), stages.end(), [](const Stage& s) { return s.monitor != Stage::Monitor::None; });
}

Recipe unquantised_recipe(ElementFormat element) {
  LinearRecipe linear;
  for (const Operand o : kAllOperands) linear[o].quant.element = element;
  linear[Operand::DgradW].source = OperandSource::Fprop;
  linear[Operand::WgradX].source = OperandSource::Fprop;
  Recipe recipe;
  recipe.name = name_of(element_names(), element);
  recipe.title = "unquantised";
  recipe.stages.emplace_back().linear.push_back(linear);
  recipe.high_precision = linear;
  return recipe;
}

std::filesystem::path find_recipe(const std::string& name) { return find_data_file("recipes", name, "recipe"); }
std::vector<std::string> known_recipes() { return known_data_files("recipes"); }

}  // namespace nibble
