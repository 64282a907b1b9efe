#include "nibble/train/run_info.h"

#include <omp.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "nibble/io/json.h"
#include "nibble/ops/machine.h"
#include "nibble/tensor/device.h"
#include "nibble/train/gpu_peak.h"

namespace nibble {

namespace {

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

/// Operations a second that a product on this path could reach. One without a measured rate of its own runs at the pace
/// of float arithmetic or slower.
double peak_of(GemmPath path, Device device) {
  if (device == Device::Cuda) {
    const GpuPeak& peak = gpu_peak();
    return path == GemmPath::Fp8 ? peak.fp8 : path == GemmPath::F32 ? peak.f32 : peak.bf16;
  }
  const MachinePeak& peak = machine_peak();
  const bool integer = path == GemmPath::Int8 || path == GemmPath::Int8Block;
  const double own = integer ? peak.int8 : path == GemmPath::Bf16 ? peak.bf16 : 0;
  return own > 0 ? own : peak.f32;
}

/// Rows of the operands that the default layers run in the first stage, and of those that differ from them elsewhere.
void add_operands(const Recipe& recipe, std::size_t stage, std::size_t module, nlohmann::json& table) {
  const LinearRecipe& linear = recipe.stages[stage].linear[module];
  const bool first = &linear == &recipe.base();
  std::string where = stage == 0 ? "" : fmt::format("stage {}", stage + 1);
  if (module < recipe.modules.size()) {
    for (const std::string& pattern : recipe.modules[module]) where += (where.empty() ? "" : ", ") + pattern;
  }
  for (Operand o : kAllOperands) {
    if (!first && linear[o] == recipe.base()[o]) continue;
    nlohmann::json row = {{"operand", operand_name(o)}, {"spec", describe(linear[o])}};
    if (!first) row["where"] = where;
    table.push_back(std::move(row));
  }
}

}  // namespace

std::string path_summary(const Llama& model, std::size_t product) {
  std::set<std::string> names;
  for (const Linear& linear : model.linears()) {
    const GemmPath path = linear.paths()[product];
    const bool fast = path == GemmPath::Fp8 && fp8_accumulation() == Fp8Accumulation::Fast;
    names.insert(fmt::format("{}{}", gemm_path_name(path), fast ? ", fast accumulation" : ""));
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " + ") + name;
  return text;
}

double ideal_seconds_per_token(const Llama& model) {
  const Device device = model.device();
  const LlamaConfig& c = model.config();
  double seconds = 0;
  for (const Linear& linear : model.linears()) {
    for (const GemmPath path : linear.paths()) {
      seconds += 2.0 * static_cast<double>(linear.weights()) / peak_of(path, device);
    }
  }
  seconds += 6.0 * static_cast<double>(c.vocab * c.width) / peak_of(GemmPath::Bf16, device);
  seconds += 12.0 * static_cast<double>(c.layers * c.attention_width()) * static_cast<double>(c.seq) / 2.0 /
             peak_of(device == Device::Cuda ? GemmPath::Bf16 : GemmPath::F32, device);
  return seconds;
}

void write_run_info(const std::filesystem::path& run, const TrainConfig& config, const Llama& model,
                    const Optimizer& optimizer, const MemoryPlan& plan, int ranks) {
  const LlamaConfig& m = config.model;
  const Recipe& recipe = model.recipe();
  nlohmann::json table = nlohmann::json::array();
  for (std::size_t stage = 0; stage < recipe.stages.size(); ++stage) {
    for (std::size_t module = recipe.stages[stage].linear.size(); module-- > 0;)
      add_operands(recipe, stage, module, table);
  }
  nlohmann::json predicted = nlohmann::json::object();
  for (const MemoryPart& part : plan.parts) predicted[part.name] = std::llround(part.bytes);
  predicted["total"] = std::llround(plan.total());
  const MachinePeak& peak = machine_peak();
  nlohmann::json machine = {{"cpu", cpu_name()},
                            {"threads", omp_get_max_threads()},
                            {"isa", cpu_isa()},
                            {"peak_f32_gflops", peak.f32 * 1e-9},
                            {"peak_bf16_gflops", peak.bf16 * 1e-9},
                            {"peak_int8_gops", peak.int8 * 1e-9}};
  if (config.device == Device::Cuda) {
    machine["gpu"] = cuda_device().name;
    machine["gpu_bf16_tflops"] = gpu_peak().bf16 * 1e-12;
    machine["gpu_fp8_tflops"] = gpu_peak().fp8 * 1e-12;
  }
  const nlohmann::json info = {
      {"name", run.filename().string()},
      {"recipe", recipe.name},
      {"recipe_title", recipe.title},
      {"recipe_text", recipe.text},
      {"recipe_table", table},
      {"seed", config.seed},
      {"ranks", ranks},
      {"config", to_toml(config)},
      {"parameters", m.parameters()},
      {"non_embedding_parameters", m.non_embedding_parameters()},
      {"model",
       {{"name", m.name},
        {"layers", m.layers},
        {"width", m.width},
        {"heads", m.heads},
        {"kv_heads", m.kv_heads},
        {"ffn", m.ffn},
        {"vocab", m.vocab},
        {"seq", m.seq},
        {"tied_head", m.tied_head}}},
      {"train",
       {{"steps", config.steps},
        {"batch", config.batch},
        {"micro_batch", config.micro_batch},
        {"tokens_per_step", config.tokens_per_step()},
        {"lr", config.lr},
        {"optimizer", config.optimizer == OptimizerKind::AdamW ? "adamw" : "adamw-fp8"},
        {"schedule", config.schedule == Schedule::Cosine ? "cosine" : "wsd"}}},
      {"data", {{"dir", config.data.string()}}},
      {"memory",
       {{"optimizer_bytes", optimizer.bytes()},
        {"weight_bytes", model.parameter_bytes()},
        {"gradient_bytes", model.gradient_bytes()},
        {"activation_peak_bytes", model.activation_peak_bytes()},
        {"working_copy_peak_bytes", model.working_copy_peak_bytes()},
        {"predicted", predicted}}},
      {"machine", machine},
      {"paths",
       {{"fprop", path_summary(model, 0)}, {"dgrad", path_summary(model, 1)}, {"wgrad", path_summary(model, 2)}}},
      {"nibble", {{"version", NIBBLE_VERSION}}},
      {"started", utc_now()}};
  write_json_atomic(run / "run.json", info);
}

}  // namespace nibble
