// A whole training step by recipe, and where its time goes. One line a recipe: milliseconds, tokens/s, share of the
// machine's peak, ratio to the first recipe (the BF16 baseline) of the same run, the products' share of the step and
// their rate over the FMA peak; then the breakdown by op. Then what telemetry costs: a step that measures over one that
// does not, alternating in the same run, and its share of a training run at the default interval (train/config.h).
#include <benchmark/benchmark.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "nibble/ops/machine.h"
#include "nibble/ops/reduce.h"
#include "nibble/train/optimizer.h"
#include "nibble/train/run_info.h"
#include "nibble/train/telemetry.h"

namespace nibble {
namespace {

// A recipe that acts late in a run begins to act within a bench.
constexpr std::int64_t kSteps = 100;

std::map<std::string, double> g_baseline_seconds;  // by model: of the first recipe that ran

struct StepTimer {
  LlamaConfig config;
  std::int64_t sequences;
  Llama model;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<std::int32_t> tokens;
  StepProfile profile;
  std::uint32_t step = 0;

  StepTimer(const LlamaConfig& c, const Recipe& recipe, std::int64_t n)
      : config(c), sequences(n), model(c, recipe, 1), optimizer(make_optimizer(OptimizerKind::AdamW, model)) {
    std::mt19937 rng(1);
    tokens.resize(static_cast<std::size_t>(n * c.seq));
    for (std::int32_t& t : tokens) t = static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab));
    model.set_profile(&profile);
  }

  /// One step; its seconds.
  double run(bool measure) {
    const auto start = std::chrono::steady_clock::now();
    const Tensor batch = Tensor::of(tokens.data(), {sequences, config.seq});
    for (Linear& linear : model.linears()) linear.reset_quality();
    model.prepare(++step, measure);
    model.forward_backward({batch, batch}, 1.0 / static_cast<double>(tokens.size()), step, 0, true, measure);
    AdamWStep update;
    update.lr = 1e-4f;
    update.t = step;
    const double norm = timed(&profile, "grad norm", sum_of_squares, model.flat_grads());
    update.grad_scale = norm > 1 ? static_cast<float>(1 / norm) : 1.0f;
    timed(&profile, "adamw", [&] { optimizer->step(update); });
    timed(&profile, "after update", [&] { model.after_update(step, kSteps); });
    if (measure) {
      nlohmann::ordered_json line;
      add_telemetry(gather_telemetry(model.linears()), line);
      benchmark::DoNotOptimize(line.dump());
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

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

  double total = 0;
  double gemm_seconds = 0;
  std::vector<std::pair<double, std::string>> parts;
  for (const auto& [op, time] : timer.profile.seconds()) {
    parts.emplace_back(time, op);
    total += time;
    if (op.starts_with("gemm")) gemm_seconds += time;
  }
  double products = static_cast<double>(config.vocab * config.width);
  for (const Linear& linear : timer.model.linears()) products += static_cast<double>(linear.weights());
  const double gemm_flops = 6.0 * products * tokens * static_cast<double>(seconds.size());
  state.counters["gemm_share"] = gemm_seconds / total;
  state.counters["gemm_of_fma_peak"] = gemm_flops / gemm_seconds / machine_peak().f32;
  std::sort(parts.rbegin(), parts.rend());
  std::string line = fmt::format("  {} by op:", recipe_name);
  for (const auto& [time, op] : parts) {
    line += fmt::format(" {} {:.1f} ms ({:.1f} %),", op, 1e3 * time / static_cast<double>(seconds.size()),
                        100 * time / total);
  }
  line.back() = '\n';
  fmt::print(stderr, "{}", line);
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
}  // namespace nibble
