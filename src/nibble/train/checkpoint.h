// Checkpoints: everything a run needs to go on bit for bit as if it had never stopped.
//
//   RUN/checkpoints/step-00000500/
//     model.safetensors       FP32 weights under their Hugging Face names
//     optimizer.safetensors   the optimizer's states; missing where weights alone were imported
//     recipe.safetensors      the state of recipes that have some (moving averages, oscillation statistics)
//     state.json              step, tokens seen, position in the data, configuration, recipe, stage, alarms, and the
//                             XXH3 checksums of the files above
//
// Of several ranks each writes its rows (train/state_snapshot.h) into files of its own, which together are the same
// tensors (io/safetensors_parts.h):
//
//     model.rank-00000-of-00004.safetensors ... model.rank-00003-of-00004.safetensors, likewise the others
//     state.json              with "ranks": 4, and the checksums of all parts
//
// Any number of ranks goes on from what any number wrote: each reads the rows that it needs, from the files that have
// them, and validates its share of the files. A checkpoint is written aside, synced and renamed (train/
// checkpoint_writer.h); it counts only if every checksum agrees.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "nibble/data/loader.h"
#include "nibble/dist/communicator.h"
#include "nibble/io/safetensors.h"
#include "nibble/train/alarms.h"
#include "nibble/train/optimizer.h"
#include "nibble/train/stage.h"

namespace nibble {

inline constexpr const char* kCheckpointsFolder = "checkpoints";  ///< of a run
inline constexpr const char* kStateFile = "state.json";           ///< of a checkpoint

struct TrainState {
  std::int64_t step = 0;    ///< optimizer steps done
  std::int64_t tokens = 0;  ///< training tokens seen
  LoaderPosition position;
  std::string config;            ///< the configuration as TOML
  std::string recipe;            ///< the recipe file's text
  std::string data_fingerprint;  ///< of the training shards
  StageState stage;
  AlarmState alarms;
  double gradient_factor = 0;  ///< of train.exchange_scaling = "auto"; 0: there is none
};

/// Writes RUN/checkpoints/step-00000000 of F32 weights without an optimizer: it can be read, but no run goes on from
/// it. `files`, texts by name, go along. UserError where the run has a checkpoint already.
void save_weights(const std::filesystem::path& run, const TrainState& state,
                  const std::vector<SafetensorsEntry>& weights, const std::map<std::string, std::string>& files = {});
/// Where save_weights writes: an absolute path.
std::filesystem::path weights_checkpoint(const std::filesystem::path& run);

/// The newest checkpoint of the run that validates; older ones are tried when a newer is damaged (each damaged one is
/// reported through `warn`). Nothing when there is none.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& run,
                                                       const std::function<void(const std::string&)>& warn = {});

/// The same by all ranks together, which share the reading; all give the same answer. UserError where they see
/// different checkpoints.
std::optional<std::filesystem::path> newest_checkpoint(Communicator& ranks, const std::filesystem::path& run,
                                                       const std::function<void(const std::string&)>& warn = {});

/// A folder with state.json, or the newest checkpoint of a run's folder. UserError where there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& checkpoint_or_run);

/// Reads state.json and checks the other files against it; UserError says what is wrong. Takes checkpoints of the
/// first format too, which knew neither stages nor recipe state.
TrainState load_state(const std::filesystem::path& checkpoint);
/// The same without checking the other files: of a checkpoint that newest_checkpoint has just found to be whole.
TrainState load_validated_state(const std::filesystem::path& checkpoint);
/// Reads the rows of the states that this rank has. UserError for a checkpoint of weights alone.
void load_optimizer(const std::filesystem::path& checkpoint, Optimizer& optimizer);
/// Puts the model, whose weights are loaded, into the checkpoint's stage and reads the recipe's state.
void load_recipe_state(const std::filesystem::path& checkpoint, const TrainState& state, Llama& model);

}  // namespace nibble
