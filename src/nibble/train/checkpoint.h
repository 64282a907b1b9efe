// Checkpoints: everything a run needs to go on bit for bit as if it had never stopped.
//
//   RUN/checkpoints/step-00000500/
//     model.safetensors       FP32 weights under their Hugging Face names
//     optimizer.safetensors   the optimizer's states
//     state.json              step, tokens seen, position in the data, configuration, recipe, seed, and the XXH3
//     checksum
//                             of the two files above
//
// A checkpoint is written aside, synced and renamed; it counts only if every checksum agrees.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "nibble/data/loader.h"
#include "nibble/train/optimizer.h"

namespace nibble {

struct TrainState {
  std::int64_t step = 0;    ///< optimizer steps done
  std::int64_t tokens = 0;  ///< training tokens seen
  LoaderPosition position;
  std::string config;            ///< the configuration as TOML
  std::string recipe;            ///< the recipe file's text
  std::string data_fingerprint;  ///< of the training shards
};

/// Writes RUN/checkpoints/step-N, then removes all but the newest `keep`.
void save_checkpoint(const std::filesystem::path& run, const TrainState& state, const Llama& model,
                     const Optimizer& optimizer, std::int64_t keep);

/// The newest checkpoint of the run that validates; older ones are tried when a newer is damaged (each damaged one is
/// reported through `warn`). Nothing when there is none.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& run,
                                                       const std::function<void(const std::string&)>& warn = {});

/// Reads state.json and checks both files against it; UserError says what is wrong.
TrainState load_state(const std::filesystem::path& checkpoint);
/// Weights only, from model.safetensors of a checkpoint folder (or any folder with such a file).
void load_weights(const std::filesystem::path& checkpoint, Llama& model);
void load_optimizer(const std::filesystem::path& checkpoint, Optimizer& optimizer);

}  // namespace nibble
