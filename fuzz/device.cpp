// A device file, and a step's cost on what it describes.
#include "nibble/cost/device.h"

#include <cmath>

#include "fuzz/harness/target.h"
#include "nibble/cost/step.h"
#include "nibble/recipe/recipe.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  const DeviceSpec device = parse_device(std::string(bytes), "input.toml");
  LlamaConfig model;
  model.layers = 1;
  model.width = 64;
  model.heads = 2;
  model.kv_heads = 2;
  model.ffn = 128;
  model.vocab = 100;
  model.seq = 32;
  static const Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  const StepCost cost = step_cost(model, recipe, device, {2, 1, 32}, optimizer_layout("adamw"), {});
  check(cost.seconds > 0, "a step takes time");
  check(!std::isnan(cost.seconds), "a step's time is a number");
}

}  // namespace nibble::fuzz
