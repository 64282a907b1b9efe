#include "nibble/train/checkpoint_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "nibble/io/safetensors_folder.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

constexpr int kFormatVersion = 2;
constexpr int kFormatOfRanks = 3;  // with parts of several ranks

constexpr std::int64_t kMostRanks = 99999;  // five digits of a name

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

AlarmState parse_alarms(const nlohmann::json& json) {
  AlarmState alarms;
  json.at("active").get_to(alarms.active);
  json.at("losses").get_to(alarms.losses);
  json.at("gradient_norms").get_to(alarms.gradient_norms);
  return alarms;
}

}  // namespace

nlohmann::json state_json(const TrainState& state, const Checksums& checksums, int ranks) {
  nlohmann::json json = {{"format", ranks == 1 ? kFormatVersion : kFormatOfRanks},
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
  if (ranks > 1) json["ranks"] = ranks;
  if (state.gradient_factor > 0) json["gradient_factor"] = state.gradient_factor;
  return json;
}

fs::path checkpoints_of(const fs::path& run) { return run / kCheckpointsFolder; }

fs::path checkpoint_of(const fs::path& run, std::int64_t step) {
  return checkpoints_of(run) / fmt::format("step-{:08}", step);
}

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.find(".tmp-") == std::string::npos) found.push_back(entry.path());
  }
  // Their names sort like their steps.
  std::sort(found.rbegin(), found.rend());
  return found;
}

StoredState read_stored_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kStateFile;
  const nlohmann::json json = read_json(file);
  StoredState stored;
  TrainState& state = stored.state;
  try {
    const std::int64_t format = integer_at(json, "format", file.string());
    if (format < 1 || format > kFormatOfRanks) {
      user_error("'{}' has format {}, this build reads 1 to {}: use the nibble that wrote it", file.string(), format,
                 kFormatOfRanks);
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
    if (json.contains("gradient_factor")) {
      state.gradient_factor = json.at("gradient_factor").get<double>();
      if (!(state.gradient_factor > 0 && state.gradient_factor <= 1)) {
        user_error("'{}': gradient_factor is {}", file.string(), state.gradient_factor);
      }
    }
    const nlohmann::json& checksums = json.at("checksums");
    const std::int64_t ranks = format >= kFormatOfRanks ? integer_at(json, "ranks", file.string()) : 1;
    if (ranks < 1 || ranks > kMostRanks) user_error("'{}': {} ranks", file.string(), ranks);
    for (const char* stem : {kWeightsStem, kOptimizerStem, kRecipeStem}) {
      // A recipe may have no state, and weights that were imported have no optimizer.
      const bool optional = stem == std::string_view(kRecipeStem) || state.step == 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const std::string name = safetensors_part_name(stem, rank, static_cast<int>(ranks));
        if (optional && rank == 0 && !checksums.contains(name)) break;
        stored.files.emplace_back(name, checksums.at(name).get<std::string>());
      }
    }
  } catch (const nlohmann::json::exception& e) {
    user_error("'{}' is not a checkpoint's state: {}", file.string(), e.what());
  }
  return stored;
}

void check_file(const fs::path& checkpoint, const std::string& name, const std::string& checksum) {
  const fs::path file = checkpoint / name;
  std::error_code ignored;
  if (!fs::exists(file, ignored)) user_error("'{}' is missing, which {} lists", file.string(), kStateFile);
  if (hex64(xxh3_64(MappedFile(file).bytes())) != checksum) {
    user_error("'{}' is damaged: its checksum differs from the one in {}", file.string(), kStateFile);
  }
}

}  // namespace nibble
