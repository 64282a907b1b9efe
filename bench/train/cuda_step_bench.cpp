// A whole training step on the GPU by recipe: milliseconds, tokens/s, ratio to the BF16 step of the same run, model
// FLOP/s; memory as it was predicted, as tensors took it at most, and as the GPU says; then, from steps that wait after
// each op, where the time goes. "_graphs": blocks are handed over as CUDA graphs, and ops are not timed.
// "_fast": FP8 sums stay in the accumulators (ops/gemm.h).
#include <cuda_runtime.h>
#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "bench/train/step_timer.h"
#include "nibble/ops/gemm.h"
#include "nibble/train/memory.h"

namespace nibble::bench {
namespace {

std::map<std::string, double> g_baseline_seconds;  // by model: of the first recipe that ran

constexpr double kGiB = 1 << 30;

/// The tensors of a model and its optimizer, and the most that its arenas held.
double tensor_bytes(StepTimer& timer) {
  std::size_t bytes = timer.model.flat_values().bytes() + timer.model.gradient_bytes() + timer.optimizer->bytes() +
                      timer.model.working_copy_peak_bytes() + timer.model.activation_peak_bytes();
  timer.model.visit_linear_state([&](const StateTensor& state) { bytes += state.rows.bytes(); });
  return static_cast<double>(bytes);
}

enum class StepMode : std::uint8_t { Plain, Graphs, Fast };

/// The process's settings for a mode, while it lives.
struct Settings {
  explicit Settings(StepMode mode) {
    if (mode == StepMode::Fast) set_fp8_accumulation(Fp8Accumulation::Fast);
  }
  ~Settings() { set_fp8_accumulation(Fp8Accumulation::F32); }
};

void cuda_step(benchmark::State& state, const char* model, std::int64_t sequences, const char* recipe_name,
               StepMemory memory = {}, StepMode mode = StepMode::Plain) {
  const Settings settings(mode);
  const bool graphs = mode == StepMode::Graphs;
  if (cuda_devices() == 0) return state.SkipWithError("no GPU here");
  const std::string root = NIBBLE_SOURCE_DIR;
  LlamaConfig config = load_llama_config(root + "/models/" + model + ".toml");
  config.seq = std::min<std::int64_t>(config.seq, 2048);
  const Recipe recipe = load_recipe(root + "/recipes/" + recipe_name + ".toml");
  TrainConfig run;
  run.model = config;
  run.batch = run.micro_batch = sequences;
  run.device = Device::Cuda;
  run.optimizer = memory.optimizer;
  run.gradients = memory.gradients;
  run.recompute = memory.recompute;
  run.quality_every = 0;
  const MemoryPlan plan = plan_memory(memory_question(run, recipe));
  if (plan.total() > static_cast<double>(cuda_device().free_memory)) {
    return state.SkipWithError("more memory is predicted than there is");
  }
  StepTimer timer(config, recipe, sequences, Device::Cuda, memory);
  timer.model.reserve(plan);
  timer.set_profiled(false);
  timer.model.set_work_graphs(graphs);
  for (int i = 0; i < 3; ++i) timer.run(false);
  std::vector<double> seconds;
  for (auto _ : state) {
    seconds.push_back(timer.run(false));
    state.SetIterationTime(seconds.back());
  }
  const double step_seconds = median(seconds);
  g_baseline_seconds.try_emplace(config.name, step_seconds);
  const double tokens = static_cast<double>(sequences * config.seq);
  state.counters["tokens/s"] = tokens / step_seconds;
  state.counters["vs_bf16"] = g_baseline_seconds[config.name] / step_seconds;
  // Model FLOPs: 6 a weight of a product, 12 a layer, position and channel for causal attention, halved by the mask.
  double products = static_cast<double>(config.vocab * config.width);
  for (const Linear& linear : timer.model.linears()) products += static_cast<double>(linear.weights());
  const double attention = 6.0 * static_cast<double>(config.layers * config.width * config.seq);
  state.counters["TFLOP/s"] = (6.0 * products + attention) * tokens / step_seconds * 1e-12;
  std::size_t free_bytes = 0;
  std::size_t all_bytes = 0;
  cudaMemGetInfo(&free_bytes, &all_bytes);
  state.counters["GiB"] = static_cast<double>(all_bytes - free_bytes) / kGiB;
  state.counters["GiB_tensors"] = tensor_bytes(timer) / kGiB;
  state.counters["GiB_predicted"] = plan.tensors() / kGiB;

  if (graphs) {
    state.counters["graphs"] = timer.model.graphs_instantiated();
    return;
  }
  timer.set_profiled(true);
  constexpr std::size_t kProfiled = 3;
  for (std::size_t i = 0; i < kProfiled; ++i) timer.run(false);
  double total = 0;
  const std::string ops = by_op(timer.profile, kProfiled, total);
  fmt::print(stderr, "  {} {} by op ({:.1f} ms): {}\n", config.name, recipe_name, 1e3 * total / kProfiled, ops);
}

#define NIBBLE_CUDA_STEP(MODEL, SEQUENCES, RECIPE, TAG)       \
  BENCHMARK_CAPTURE(cuda_step, TAG, MODEL, SEQUENCES, RECIPE) \
      ->Unit(benchmark::kMillisecond)                         \
      ->UseManualTime()                                       \
      ->Iterations(10)
#define NIBBLE_CUDA_STEP_BY(MODE, MODEL, SEQUENCES, RECIPE, TAG)                            \
  BENCHMARK_CAPTURE(cuda_step, TAG, MODEL, SEQUENCES, RECIPE, StepMemory{}, StepMode::MODE) \
      ->Unit(benchmark::kMillisecond)                                                       \
      ->UseManualTime()                                                                     \
      ->Iterations(10)
NIBBLE_CUDA_STEP("quartet-30m", 64, "bf16", quartet30m_bf16);
NIBBLE_CUDA_STEP_BY(Graphs, "quartet-30m", 64, "bf16", quartet30m_bf16_graphs);
NIBBLE_CUDA_STEP("quartet-30m", 64, "fp8", quartet30m_fp8);
NIBBLE_CUDA_STEP("quartet-30m", 64, "fp4-direct", quartet30m_fp4_direct);
NIBBLE_CUDA_STEP("quartet-30m", 64, "wang2025", quartet30m_wang2025);
NIBBLE_CUDA_STEP("quartet-30m", 64, "ablations/wang2025-fused", quartet30m_wang2025_fused);
NIBBLE_CUDA_STEP_BY(Fast, "quartet-30m", 64, "ablations/wang2025-fused", quartet30m_wang2025_fused_fast);
NIBBLE_CUDA_STEP_BY(Graphs, "quartet-30m", 64, "ablations/wang2025-fused", quartet30m_wang2025_fused_graphs);
NIBBLE_CUDA_STEP("quartet-30m", 64, "wang2025-released", quartet30m_wang2025_released);
NIBBLE_CUDA_STEP("quartet-30m", 64, "quartet", quartet30m_quartet);
NIBBLE_CUDA_STEP("quartet-30m", 64, "nvfp4", quartet30m_nvfp4);
NIBBLE_CUDA_STEP_BY(Graphs, "quartet-30m", 64, "nvfp4", quartet30m_nvfp4_graphs);
NIBBLE_CUDA_STEP("quartet-30m", 64, "quartet2", quartet30m_quartet2);
NIBBLE_CUDA_STEP_BY(Graphs, "quartet-30m", 64, "quartet2", quartet30m_quartet2_graphs);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "bf16", llama1b_bf16);
NIBBLE_CUDA_STEP_BY(Graphs, "llama-1.3b", 8, "bf16", llama1b_bf16_graphs);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "fp4-direct", llama1b_fp4_direct);
NIBBLE_CUDA_STEP_BY(Fast, "llama-1.3b", 8, "fp4-direct", llama1b_fp4_direct_fast);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "wang2025", llama1b_wang2025);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "ablations/wang2025-fused", llama1b_wang2025_fused);
NIBBLE_CUDA_STEP_BY(Fast, "llama-1.3b", 8, "ablations/wang2025-fused", llama1b_wang2025_fused_fast);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "quartet", llama1b_quartet);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "quartet2", llama1b_quartet2);
NIBBLE_CUDA_STEP("llama-1.3b", 8, "nvfp4", llama1b_nvfp4);

// What memory costs in time: against the same recipe above.
constexpr StepMemory kParts{.recompute = Recompute::BlockParts};
constexpr StepMemory kBlocks{.recompute = Recompute::Block};
constexpr StepMemory kLeast{OptimizerKind::AdamWFp8, DType::BF16, Recompute::Block};
#define NIBBLE_CUDA_STEP_IN(MEMORY, MODEL, SEQUENCES, RECIPE, TAG)    \
  BENCHMARK_CAPTURE(cuda_step, TAG, MODEL, SEQUENCES, RECIPE, MEMORY) \
      ->Unit(benchmark::kMillisecond)                                 \
      ->UseManualTime()                                               \
      ->Iterations(5)
NIBBLE_CUDA_STEP_IN(kParts, "llama-1.3b", 8, "bf16", llama1b_bf16_recompute_parts);
NIBBLE_CUDA_STEP_IN(kBlocks, "llama-1.3b", 8, "bf16", llama1b_bf16_recompute_blocks);
NIBBLE_CUDA_STEP_IN(kLeast, "llama-1.3b", 8, "bf16", llama1b_bf16_least_memory);
NIBBLE_CUDA_STEP_IN(kBlocks, "llama-1.3b", 8, "ablations/wang2025-fused", llama1b_wang2025_fused_recompute_blocks);
NIBBLE_CUDA_STEP_IN(kLeast, "llama2-7b", 8, "bf16", llama7b_bf16_least_memory);
NIBBLE_CUDA_STEP_IN(kLeast, "llama2-7b", 8, "fp4-direct", llama7b_fp4_direct_least_memory);
NIBBLE_CUDA_STEP_IN(kLeast, "llama2-7b", 8, "ablations/wang2025-fused", llama7b_wang2025_fused_least_memory);
NIBBLE_CUDA_STEP_IN(kLeast, "llama2-7b", 8, "quartet2", llama7b_quartet2_least_memory);

}  // namespace
}  // namespace nibble::bench
