#include "nibble/cost/estimate.h"

#include <cmath>

#include "nibble/cost/theory.h"
#include "nibble/tensor/error.h"

namespace nibble {

CostEstimate estimate_cost(const CostQuestion& q) {
  const auto step = [&](const Recipe& recipe) {
    return step_cost(q.model, recipe, q.device, q.batch, q.optimizer, q.assumptions);
  };
  const auto parallel = [&](const Recipe& recipe, const StepCost& cost) {
    return parallel_cost(q.model, recipe, q.device, q.batch, q.optimizer, q.assumptions, q.parallel, cost);
  };
  const Recipe bf16 = unquantised_recipe(ElementFormat::BF16);
  const Recipe fp8 = reference_fp8();
  const Sharding sharding = q.parallel.sharding();
  CostEstimate e;
  e.step = step(q.recipe);
  e.bf16 = step(bf16);
  e.fp8 = step(fp8);
  e.parallel = parallel(q.recipe, e.step);
  e.parallel_bf16 = parallel(bf16, e.bf16);
  e.parallel_fp8 = parallel(fp8, e.fp8);
  e.memory = memory_cost(q.model, q.recipe, q.batch, q.optimizer, q.recompute, q.device, sharding);
  e.largest_micro_batch = largest_micro_batch(q.model, q.recipe, q.batch, q.optimizer, q.recompute, q.device, sharding);
  e.layer_index = q.model.layers / 2;
  const auto recipe_of = [&](const LinearShape& shape) -> const LinearRecipe& {
    const std::string name = fmt::format("layers.{}.{}", e.layer_index, shape.name);
    return q.recipe.resolve(name, e.layer_index, q.model.layers, 0);
  };
  e.layer = layer_products(block_linears(q.model), recipe_of, q.batch.micro_sequences * q.batch.seq, q.batch.passes(),
                           q.device, q.assumptions);
  e.theoretical_cost = theoretical_relative_cost(q.model, q.recipe);
  e.tokens_per_second = e.step.tokens / e.parallel.seconds * q.devices;
  e.run_seconds = q.tokens / e.tokens_per_second;
  e.run_usd = e.run_seconds / 3600 * q.usd_per_device_hour * q.devices;
  const double peak = q.device.peak[static_cast<std::size_t>(q.device.high_precision())];
  e.model_flops_share = e.step.model_flops / e.parallel.seconds / peak;
  return e;
}

Worth judge_worth(const CostEstimate& estimate, double token_factor) {
  Worth worth;
  worth.loss_known = !std::isnan(token_factor);
  const double factor = worth.loss_known ? token_factor : 1;
  worth.time_to_equal_loss = factor / estimate.speedup_over_bf16();
  worth.time_to_equal_loss_fp8 = factor / estimate.speedup_over_fp8();
  worth.worth_it = worth.time_to_equal_loss < 1 && worth.time_to_equal_loss_fp8 < 1;
  return worth;
}

std::string worth_sentence(const CostQuestion& q, const CostEstimate& e, double token_factor) {
  const Worth worth = judge_worth(e, token_factor);
  const bool fits = e.memory.total() <= q.device.memory_bytes;
  const std::string speed = fmt::format(
      "a step of {} on {}{} takes {:.2f} of the time in BF16 and {:.2f} of that in FP8", q.recipe.name, q.device.title,
      fits ? "" : ", whose memory it exceeds,", 1 / e.speedup_over_bf16(), 1 / e.speedup_over_fp8());
  if (!worth.loss_known) {
    const char* verdict = worth.worth_it ? "It is faster" : "It is not worth it";
    return fmt::format("{}: {}; what it costs in loss is not counted (--eff-n, --eff-d).", verdict, speed);
  }
  if (std::isinf(token_factor)) {
    return fmt::format("It is not worth it: {}, but no number of tokens brings a model of this size to BF16's loss.",
                       speed);
  }
  const char* verdict = worth.worth_it ? "It is worth it" : "It is not worth it";
  return fmt::format(
      "{}: {}, and it needs {:.2f} times the tokens for BF16's loss, so it is there after {:.2f} of BF16's "
      "time and {:.2f} of FP8's.",
      verdict, speed, token_factor, worth.time_to_equal_loss, worth.time_to_equal_loss_fp8);
}

}  // namespace nibble
