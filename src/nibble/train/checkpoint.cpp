#include "nibble/train/checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "nibble/dist/gather.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/json.h"
#include "nibble/io/safetensors_folder.h"
#include "nibble/train/checkpoint_state.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// UserError where ranks see different checkpoints.
void agree_on_folder(Communicator& ranks, const std::vector<fs::path>& checkpoints, const fs::path& run) {
  std::string names;
  for (const fs::path& checkpoint : checkpoints) names += checkpoint.filename().string() + '\n';
  const std::uint64_t mine = xxh3_64(names);
  for (const std::uint64_t of_rank : gather_value(ranks, mine)) {
    if (of_rank != mine) {
      user_error("ranks see different checkpoints in '{}': it must be one folder that all of them share", run.string());
    }
  }
}

/// Empty where the checkpoint validates, else what is wrong with it. Each rank reads its share of the files: where as
/// many ranks wrote them, those that it wrote as this rank.
std::string damage_of(Communicator& ranks, const fs::path& checkpoint) {
  std::string damage;
  try {
    const StoredState stored = read_stored_state(checkpoint);
    const auto every = static_cast<std::size_t>(ranks.size());
    for (auto i = static_cast<std::size_t>(ranks.rank()); i < stored.files.size(); i += every) {
      check_file(checkpoint, stored.files[i].first, stored.files[i].second);
    }
  } catch (const UserError& e) {
    damage = e.what();
  }
  const auto all = gather_value<std::uint8_t>(ranks, damage.empty() ? 0 : 1);
  const auto found = std::find(all.begin(), all.end(), 1);
  if (!damage.empty() || found == all.end()) return damage;
  try {  // another rank's words are read off the file again
    load_state(checkpoint);
  } catch (const UserError& e) {
    return e.what();
  }
  return fmt::format("rank {} cannot read '{}'", found - all.begin(), checkpoint.string());
}

/// Reads a tensor's rows that are wanted.
void read_state(const SafetensorsParts& parts, const fs::path& checkpoint, const StateTensor& state) {
  if (state.whole()) return parts.read(state.name, state.rows);
  if (parts.shape(state.name) != state.shape) {
    user_error("tensor '{}' of '{}' has {} rows where {} are expected", state.name, checkpoint.string(),
               parts.shape(state.name)[0], state.shape[0]);
  }
  parts.read_rows(state.name, state.first_row, state.rows);
}

}  // namespace

fs::path weights_checkpoint(const fs::path& run) { return checkpoint_of(fs::weakly_canonical(run), 0); }

void save_weights(const fs::path& run, const TrainState& state, const std::vector<SafetensorsEntry>& weights,
                  const std::map<std::string, std::string>& files) {
  if (!list_checkpoints(run).empty()) user_error("'{}' holds checkpoints already: choose another folder", run.string());
  make_directories(checkpoints_of(run));
  AtomicDirectory directory(weights_checkpoint(run));
  const std::uint64_t sum = write_safetensors(directory.path() / kWeightsFile, weights, {{"format", "pt"}});
  for (const auto& [name, text] : files) write_file_atomic(directory.path() / name, text);
  write_json_atomic(directory.path() / kStateFile, state_json(state, {{kWeightsFile, hex64(sum)}}, 1));
  directory.commit();
}

TrainState load_state(const fs::path& checkpoint) {
  StoredState stored = read_stored_state(checkpoint);
  for (const auto& [name, checksum] : stored.files) check_file(checkpoint, name, checksum);
  return std::move(stored.state);
}

TrainState load_validated_state(const fs::path& checkpoint) { return read_stored_state(checkpoint).state; }

std::optional<fs::path> newest_checkpoint(Communicator& ranks, const fs::path& run,
                                          const std::function<void(const std::string&)>& warn) {
  const std::vector<fs::path> all = list_checkpoints(run);
  agree_on_folder(ranks, all, run);
  for (const fs::path& candidate : all) {
    const std::string damage = damage_of(ranks, candidate);
    if (damage.empty()) return candidate;
    if (warn) warn(damage + "; trying the checkpoint before it");
  }
  return std::nullopt;
}

std::optional<fs::path> newest_checkpoint(const fs::path& run, const std::function<void(const std::string&)>& warn) {
  return newest_checkpoint(*make_single_process(Device::Cpu), run, warn);
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
  if (!SafetensorsParts::exist(checkpoint, kOptimizerStem)) {
    user_error("'{}' holds weights alone: begin a run with them by train.init", checkpoint.string());
  }
  const SafetensorsParts parts(checkpoint, kOptimizerStem);
  optimizer.visit([&](const StateTensor& state) { read_state(parts, checkpoint, state); });
}

void load_recipe_state(const fs::path& checkpoint, const TrainState& state, Llama& model) {
  model.set_stage(state.stage.stage);
  std::vector<StateTensor> wanted;
  model.visit_linear_state([&](const StateTensor& tensor) { wanted.push_back(tensor); });
  if (wanted.empty()) return;
  if (!SafetensorsParts::exist(checkpoint, kRecipeStem)) {
    user_error("'{}' holds no state of the recipe '{}', which needs some: start the run in another folder",
               checkpoint.string(), model.recipe().name);
  }
  const SafetensorsParts parts(checkpoint, kRecipeStem);
  for (const StateTensor& tensor : wanted) read_state(parts, checkpoint, tensor);
}

}  // namespace nibble
