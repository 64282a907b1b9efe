// A device file, and a step's cost on what it describes.
#include "nibble/cost/device.h"

#include <cmath>

#include "fuzz/harness/target.h"
#include "nibble/cost/step.h"
#include "nibble/recipe/recipe.h"
#include "tests/model/small_llama.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  const DeviceSpec device = parse_device(std::string(bytes), "input.toml");
  static const LlamaConfig model = testing_support::small_llama(1);
  static const Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  const StepCost cost = step_cost(model, recipe, device, {2, 1, model.seq}, optimizer_layout("adamw"), {});
  check(cost.seconds > 0, "a step takes time");
  check(!std::isnan(cost.seconds), "a step's time is a number");
}

}  // namespace nibble::fuzz
