#include <omp.h>

#include "nibble/cli/arguments.h"
#include "nibble/dist/launch.h"
#include "nibble/model/llama.h"
#include "nibble/ops/attention.h"
#include "nibble/ops/machine.h"
#include "nibble/ops/self_test.h"
#include "nibble/report/table.h"
#include "nibble/tensor/device.h"
#include "nibble/train/run_info.h"

namespace nibble {

namespace {

/// Everything is as wide as the largest Hadamard group of the shipped recipes.
constexpr std::int64_t kProbeWidth = 128;

/// One pass of a tiny model shows the path that each product of a recipe takes on a device of this machine.
std::vector<std::string> probe_paths(const Recipe& recipe, Device device) {
  LlamaConfig config;
  config.layers = 1;
  config.width = config.ffn = config.vocab = config.seq = kProbeWidth;
  config.heads = config.kv_heads = 2;
  Llama model(config, recipe, 1, DType::BF16, device);
  std::vector<std::int32_t> tokens(kProbeWidth);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * 7 % kProbeWidth);
  const Tensor batch = Tensor::of(tokens.data(), {1, kProbeWidth});
  model.prepare(1, false);
  model.forward_backward({batch, batch}, 1.0 / kProbeWidth, 1, 0, true, false);
  return {recipe.name, path_summary(model, 0), path_summary(model, 1), path_summary(model, 2)};
}

std::string describe_gpu() {
  if (cuda_devices() == 0) return "none that can be used (or this build has no CUDA backend)";
  const CudaDevice gpu = cuda_device();
  return fmt::format("{} (compute capability {}.{}, {} multiprocessors, {:.1f} GiB); attention: {}", gpu.name,
                     gpu.compute_capability / 10, gpu.compute_capability % 10, gpu.multiprocessors,
                     static_cast<double>(gpu.memory) / (1 << 30),
                     attention_backend({1, 2048, 16, 16, 128}, Device::Cuda));
}

std::string library_or_why_not(Device device) {
  try {
    return joining_library(device);
  } catch (const UserError& e) {
    return fmt::format("none: {}", e.what());
  }
}

/// What several ranks need, and whether this process is one.
void print_ranks(Device device) {
  fmt::print("started  {}\nmpi      {}\nnccl     {}\n", describe(read_launch(device)), library_or_why_not(Device::Cpu),
             library_or_why_not(Device::Cuda));
}

/// A line a kernel; whether none failed.
bool print_self_tests(Device device) {
  if (device != Device::Cuda) {
    fmt::print(
        "\nself-tests  none: they hold a GPU's kernels against the CPU's\n"
        "native FP4 products: refused: they need a GPU of compute capability 10.0 or 12.0 (Blackwell)\n");
    return true;
  }
  TextTable table;
  table.columns = {{"self-test on the GPU", Align::Left}, {"result", Align::Left}, {"ms"}, {"", Align::Left}};
  bool sound = true;
  for (const SelfTest& test : self_tests()) {
    sound = sound && test.verdict != SelfTest::Verdict::Failed;
    table.rows.push_back(
        {test.name, verdict_name(test.verdict), fmt::format("{:.0f}", 1e3 * test.seconds), test.reason});
  }
  fmt::print("\n{}", format_table(table));
  return sound;
}

class DoctorCommand final : public Command {
 public:
  std::string name() const override { return "doctor"; }
  std::string summary() const override {
    return "say what this machine offers, test its GPU, and show how each recipe would run";
  }
  std::string examples() const override { return "  nibble doctor\n  nibble doctor --recipes wang2025,./mine.toml"; }
  void declare(Arguments& a) override {
    a.list("--recipes", recipes_, "recipes by name or file; all that are known unless given");
    a.flag("--cpu", cpu_, "how they would run on the CPU, though there is a GPU");
  }
  int run() override {
    const MachinePeak& peak = machine_peak();
    fmt::print("cpu      {} ({} threads, {})\n", cpu_name(), omp_get_max_threads(), cpu_isa());
    fmt::print(
        "peak     {:.0f} GFLOP/s f32, {:.0f} GFLOP/s bf16, {:.0f} GOP/s int8 (measured, 0 = no such instruction)\n",
        peak.f32 * 1e-9, peak.bf16 * 1e-9, peak.int8 * 1e-9);
    const Device device = cuda_devices() > 0 && !cpu_ ? Device::Cuda : Device::Cpu;
    fmt::print("gpu      {}\n", describe_gpu());
    print_ranks(device);
    fmt::print("\nproducts on the {}\n", device == Device::Cuda ? "GPU" : "CPU");
    TextTable table;
    table.columns = {{"recipe", Align::Left}, {"fprop", Align::Left}, {"dgrad", Align::Left}, {"wgrad", Align::Left}};
    for (const std::string& name : recipes_.empty() ? known_recipes() : recipes_)
      table.rows.push_back(probe_paths(load_recipe(find_recipe(name)), device));
    fmt::print("{}", format_table(table));
    return print_self_tests(device) ? 0 : 1;
  }

 private:
  std::vector<std::string> recipes_;
  bool cpu_ = false;
};

}  // namespace

std::unique_ptr<Command> make_doctor_command() { return std::make_unique<DoctorCommand>(); }

}  // namespace nibble
