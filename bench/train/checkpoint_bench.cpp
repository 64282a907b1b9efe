// How long a step waits for a checkpoint of a 30M model with AdamW's states on the CPU: written at once, against copied
// and written by a thread. "stall_ms": that time; "first_stall_ms": of the first save, which finds no memory for the
// copies yet; "write_ms": until the checkpoint is there; "MB": what is written.
#include <unistd.h>

#include <filesystem>

#include "bench/train/step_timer.h"
#include "nibble/train/checkpoint_writer.h"

namespace nibble::bench {
namespace {

namespace fs = std::filesystem;

void checkpoint_bench(benchmark::State& state, bool asynchronous) {
  const std::string root = NIBBLE_SOURCE_DIR;
  const LlamaConfig config = load_llama_config(root + "/models/quartet-30m.toml");
  Llama model(config, load_recipe(root + "/recipes/bf16.toml"), 1);
  const auto optimizer = make_optimizer(OptimizerKind::AdamW, model);
  const auto alone = make_single_process(Device::Cpu);
  const fs::path run = fs::temp_directory_path() / fmt::format("nibble-checkpoint-bench-{}", getpid());
  std::vector<double> stalls, all;
  {
    CheckpointWriter writer(*alone, run, Device::Cpu, 1, asynchronous);
    TrainState at;
    for (auto _ : state) {
      const auto start = std::chrono::steady_clock::now();
      const auto milliseconds = [&] {
        return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
      };
      ++at.step;
      writer.save(at, model, *optimizer);
      stalls.push_back(milliseconds());
      writer.finish();
      all.push_back(milliseconds());
    }
  }
  fs::remove_all(run);
  state.counters["first_stall_ms"] = stalls.front();
  stalls.erase(stalls.begin());
  state.counters["stall_ms"] = median(stalls);
  state.counters["write_ms"] = median(all);
  state.counters["MB"] = static_cast<double>(model.parameter_bytes() + optimizer->bytes()) * 1e-6;
}

BENCHMARK_CAPTURE(checkpoint_bench, at_once, false)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(7);
BENCHMARK_CAPTURE(checkpoint_bench, beside_the_training, true)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->Iterations(7);

}  // namespace
}  // namespace nibble::bench
