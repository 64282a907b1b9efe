#include "nibble/train/checkpoint.h"

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>
#include <vector>

#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "nibble/io/safetensors_folder.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kRecipeFile = "recipe.safetensors";
constexpr int kFormatVersion = 2;

fs::path checkpoints_of(const fs::path& run) { return run / kCheckpointsFolder; }

/// Checkpoint folders, the newest first. Their names sort like their steps.
std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.find(".tmp-") == std::string::npos) found.push_back(entry.path());
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

nlohmann::json stage_json(const StageState& stage) {
  return {{"stage", stage.stage},
          {"began", stage.began},
          {"measured_below", stage.measured_below},
          {"rewarm_began", stage.rewarm_began},
          {"rewarm_steps", stage.rewarm_steps}};
}

StageState parse_stage(const nlohmann::json& json, const std::string& where) {
  StageState stage;
  stage.stage = static_cast<std::size_t>(integer_at(json, "stage", where));
  stage.began = integer_at(json, "began", where);
  for (const auto& entry : json.at("measured_below").get<std::vector<nlohmann::json>>()) {
    stage.measured_below.push_back(integer_at({{"measured_below", entry}}, "measured_below", where));
  }
  stage.rewarm_began = integer_at(json, "rewarm_began", where);
  stage.rewarm_steps = integer_at(json, "rewarm_steps", where);
  return stage;
}

nlohmann::json state_json(const TrainState& state, const nlohmann::json& checksums) {
  return {{"format", kFormatVersion},
          {"step", state.step},
          {"tokens", state.tokens},
          {"position", {{"epoch", state.position.epoch}, {"index", state.position.index}}},
          {"config", state.config},
          {"recipe", state.recipe},
          {"data_fingerprint", state.data_fingerprint},
          {"stage", stage_json(state.stage)},
          {"alarms",
           {{"active", state.alarms.active},
            {"losses", state.alarms.losses},
            {"gradient_norms", state.alarms.gradient_norms}}},
          {"checksums", checksums}};
}

AlarmState parse_alarms(const nlohmann::json& json) {
  AlarmState alarms;
  json.at("active").get_to(alarms.active);
  json.at("losses").get_to(alarms.losses);
  json.at("gradient_norms").get_to(alarms.gradient_norms);
  return alarms;
}

/// Tensors where they can be written to a file from: those of a GPU are copied, and live as long as this object.
class OnCpu {
 public:
  Tensor operator()(const Tensor& tensor) {
    if (tensor.device() == Device::Cpu) return tensor;
    copies_.push_back(copy_to(tensor, Device::Cpu));
    return copies_.back();
  }

 private:
  std::deque<OwnedTensor> copies_;
};

std::string file_checksum(const fs::path& path) { return hex64(xxh3_64(MappedFile(path).bytes())); }

}  // namespace

void save_checkpoint(const fs::path& run, const TrainState& state, Llama& model, const Optimizer& optimizer,
                     std::int64_t keep) {
  const fs::path destination = checkpoints_of(run) / fmt::format("step-{:08}", state.step);
  make_directories(checkpoints_of(run));
  remove_leftovers(checkpoints_of(run));
  AtomicDirectory directory(destination, Existing::Replace);

  OnCpu on_cpu;
  std::vector<SafetensorsEntry> weights;
  std::deque<OwnedTensor> decoded;
  for (const Parameter& p : model.parameters()) {
    if (p.in_half()) decoded.push_back(copy_to(values_of(p), Device::Cpu));
    for_each_part(p, p.in_half() ? decoded.back().view() : p.value, [&](const std::string& name, const Tensor& rows) {
      weights.push_back(safetensors_entry(name, on_cpu(rows)));
    });
  }
  const std::uint64_t model_sum = write_safetensors(directory.path() / kWeightsFile, weights, {{"format", "pt"}});
  std::vector<SafetensorsEntry> states;
  optimizer.visit(
      [&](const StateTensor& state) { states.push_back(safetensors_entry(state.name, on_cpu(state.rows))); });
  const std::uint64_t optimizer_sum = write_safetensors(directory.path() / kOptimizerFile, states);

  nlohmann::json checksums = {{kWeightsFile, hex64(model_sum)}, {kOptimizerFile, hex64(optimizer_sum)}};
  std::vector<SafetensorsEntry> recipe_state;
  model.visit_linear_state(
      [&](const std::string& name, const Tensor& t) { recipe_state.push_back(safetensors_entry(name, on_cpu(t))); });
  if (!recipe_state.empty()) {
    checksums[kRecipeFile] = hex64(write_safetensors(directory.path() / kRecipeFile, recipe_state));
  }

  write_json_atomic(directory.path() / kStateFile, state_json(state, checksums));
  directory.commit();

  const std::vector<fs::path> all = list_checkpoints(run);
  for (std::size_t i = static_cast<std::size_t>(keep); i < all.size(); ++i) {
    std::error_code ignored;
    fs::remove_all(all[i], ignored);
  }
}

fs::path weights_checkpoint(const fs::path& run) { return fs::weakly_canonical(checkpoints_of(run)) / "step-00000000"; }

void save_weights(const fs::path& run, const TrainState& state, const std::vector<SafetensorsEntry>& weights,
                  const std::map<std::string, std::string>& files) {
  if (!list_checkpoints(run).empty()) user_error("'{}' holds checkpoints already: choose another folder", run.string());
  make_directories(checkpoints_of(run));
  AtomicDirectory directory(weights_checkpoint(run));
  const std::uint64_t sum = write_safetensors(directory.path() / kWeightsFile, weights, {{"format", "pt"}});
  for (const auto& [name, text] : files) write_file_atomic(directory.path() / name, text);
  write_json_atomic(directory.path() / kStateFile, state_json(state, {{kWeightsFile, hex64(sum)}}));
  directory.commit();
}

TrainState load_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kStateFile;
  const nlohmann::json json = read_json(file);
  TrainState state;
  try {
    const std::int64_t format = integer_at(json, "format", file.string());
    if (format < 1 || format > kFormatVersion) {
      user_error("'{}' has format {}, this build reads 1 to {}: use the nibble that wrote it", file.string(), format,
                 kFormatVersion);
    }
    state.step = integer_at(json, "step", file.string());
    state.tokens = integer_at(json, "tokens", file.string());
    state.position.epoch = integer_at(json.at("position"), "epoch", file.string());
    state.position.index = integer_at(json.at("position"), "index", file.string());
    state.config = json.at("config").get<std::string>();
    state.recipe = json.at("recipe").get<std::string>();
    state.data_fingerprint = json.at("data_fingerprint").get<std::string>();
    if (format > 1) {
      state.stage = parse_stage(json.at("stage"), file.string());
      state.alarms = parse_alarms(json.at("alarms"));
    }
    const nlohmann::json& checksums = json.at("checksums");
    for (const char* name : {kWeightsFile, kOptimizerFile, kRecipeFile}) {
      // A recipe may have no state, and weights that were imported have no optimizer.
      const bool optional = name == std::string_view(kRecipeFile) || state.step == 0;
      if (optional && !checksums.contains(name)) continue;
      const auto expected = checksums.at(name).get<std::string>();
      if (file_checksum(checkpoint / name) != expected) {
        user_error("'{}' is damaged: its checksum differs from the one in {}", (checkpoint / name).string(),
                   kStateFile);
      }
    }
  } catch (const nlohmann::json::exception& e) {
    user_error("'{}' is not a checkpoint's state: {}", file.string(), e.what());
  }
  return state;
}

std::optional<fs::path> newest_checkpoint(const fs::path& run, const std::function<void(const std::string&)>& warn) {
  for (const fs::path& candidate : list_checkpoints(run)) {
    try {
      load_state(candidate);
      return candidate;
    } catch (const UserError& e) {
      if (warn) warn(fmt::format("{}; trying the checkpoint before it", e.what()));
    }
  }
  return std::nullopt;
}

fs::path find_checkpoint(const fs::path& checkpoint_or_run) {
  if (fs::exists(checkpoint_or_run / kStateFile)) return checkpoint_or_run;
  const auto newest = newest_checkpoint(checkpoint_or_run);
  if (!newest) {
    user_error("'{}' holds no checkpoint: name the folder of a run or one of its checkpoints",
               checkpoint_or_run.string());
  }
  return *newest;
}

void load_optimizer(const fs::path& checkpoint, Optimizer& optimizer) {
  const fs::path path = checkpoint / kOptimizerFile;
  if (!fs::exists(path)) {
    user_error("'{}' holds weights alone: begin a run with them by train.init", checkpoint.string());
  }
  const SafetensorsFile file(path);
  optimizer.visit([&](const StateTensor& state) { file.read(state.name, state.rows); });
}

void load_recipe_state(const fs::path& checkpoint, const TrainState& state, Llama& model) {
  model.set_stage(state.stage.stage);
  std::vector<std::pair<std::string, Tensor>> wanted;
  model.visit_linear_state([&](const std::string& name, const Tensor& tensor) { wanted.emplace_back(name, tensor); });
  if (wanted.empty()) return;
  const fs::path path = checkpoint / kRecipeFile;
  if (!fs::exists(path)) {
    user_error("'{}' holds no state of the recipe '{}', which needs some: start the run in another folder",
               checkpoint.string(), model.recipe().name);
  }
  const SafetensorsFile file(path);
  for (const auto& [name, tensor] : wanted) file.read(name, tensor);
}

}  // namespace nibble
