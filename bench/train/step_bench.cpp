// A whole training step by recipe, and where its time goes. One line a recipe: milliseconds, tokens/s, share of the
// machine's peak, ratio to the first recipe (the BF16 baseline) of the same run, the products' share of the step and
// their rate over the FMA peak; then the breakdown by op. Then what telemetry costs: a step that measures over one that
// does not, alternating in the same run, and its share of a training run at the default interval (train/config.h).
#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <map>

#include "bench/train/step_timer.h"
#include "nibble/ops/machine.h"
#include "nibble/train/run_info.h"

namespace nibble::bench {
namespace {

std::map<std::string, double> g_baseline_seconds;  // by model: of the first recipe that ran

void step_bench(benchmark::State& state, const char* model, std::int64_t sequences, std::int64_t seq,
                const char* recipe_name) {
  const std::string root = NIBBLE_SOURCE_DIR;
  LlamaConfig config = load_llama_config(root + "/models/" + model + ".toml");
  config.seq = seq;
  const Recipe recipe = load_recipe(root + "/recipes/" + recipe_name + ".toml");
  StepTimer timer(config, recipe, sequences);
  timer.run(false);
  timer.profile.clear();
  std::vector<double> seconds;
  for (auto _ : state) seconds.push_back(timer.run(false));
  const double step_seconds = median(seconds);
  g_baseline_seconds.try_emplace(config.name, step_seconds);
  const double tokens = static_cast<double>(sequences * seq);
  state.counters["tokens/s"] = tokens / step_seconds;
  state.counters["of_peak"] = ideal_seconds_per_token(timer.model) * tokens / step_seconds;
  state.counters["vs_bf16"] = g_baseline_seconds[config.name] / step_seconds;

  double gemm_seconds = 0;
  for (const auto& [op, time] : timer.profile.seconds()) {
    if (op.starts_with("gemm")) gemm_seconds += time;
  }
  double products = static_cast<double>(config.vocab * config.width);
  for (const Linear& linear : timer.model.linears()) products += static_cast<double>(linear.weights());
  const double gemm_flops = 6.0 * products * tokens * static_cast<double>(seconds.size());
  double total = 0;
  const std::string ops = by_op(timer.profile, seconds.size(), total);
  state.counters["gemm_share"] = gemm_seconds / total;
  state.counters["gemm_of_fma_peak"] = gemm_flops / gemm_seconds / machine_peak().f32;
  fmt::print(stderr, "  {} by op: {}\n", recipe_name, ops);
}

void telemetry_bench(benchmark::State& state, const char* recipe_name) {
  const std::string root = NIBBLE_SOURCE_DIR;
  const LlamaConfig config = load_llama_config(root + "/models/demo.toml");
  StepTimer timer(config, load_recipe(root + "/recipes/" + recipe_name + ".toml"), 2);
  timer.run(true);
  std::vector<double> ordinary, measuring;
  for (auto _ : state) {
    ordinary.push_back(timer.run(false));
    measuring.push_back(timer.run(true));
  }
  const double ratio = median(measuring) / median(ordinary);
  state.counters["vs_step"] = ratio;
  state.counters["share_of_run"] = (ratio - 1) / static_cast<double>(TrainConfig().quality_every);
}

// The 30M configuration of Quartet at sequence 512, and the two sizes that peers are measured at.
#define NIBBLE_STEP(MODEL, SEQUENCES, SEQ, RECIPE, TAG)             \
  BENCHMARK_CAPTURE(step_bench, TAG, MODEL, SEQUENCES, SEQ, RECIPE) \
      ->Unit(benchmark::kMillisecond)                               \
      ->UseRealTime()                                               \
      ->MinTime(4)
NIBBLE_STEP("quartet-30m", 4, 512, "bf16", quartet30m_bf16);
NIBBLE_STEP("quartet-30m", 4, 512, "fp4-direct", quartet30m_fp4_direct);
NIBBLE_STEP("quartet-30m", 4, 512, "wang2025", quartet30m_wang2025);
NIBBLE_STEP("quartet-30m", 4, 512, "wang2025-released", quartet30m_wang2025_released);
NIBBLE_STEP("gpt2-124m-like", 4, 64, "bf16", gpt2_124m_like_bf16);
NIBBLE_STEP("small-14m", 8, 256, "bf16", small14m_bf16);

// The model and batch of ./run demo.
#define NIBBLE_TELEMETRY(RECIPE, TAG) \
  BENCHMARK_CAPTURE(telemetry_bench, TAG, RECIPE)->Unit(benchmark::kMillisecond)->UseRealTime()->MinTime(4)
NIBBLE_TELEMETRY("bf16", bf16);
NIBBLE_TELEMETRY("fp4-direct", fp4_direct);
NIBBLE_TELEMETRY("wang2025", wang2025);
NIBBLE_TELEMETRY("quartet", quartet);
NIBBLE_TELEMETRY("nvfp4", nvfp4);
NIBBLE_TELEMETRY("quartet2", quartet2);
NIBBLE_TELEMETRY("tetrajet2", tetrajet2);

}  // namespace
}  // namespace nibble::bench
