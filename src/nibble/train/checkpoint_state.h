// state.json: what a checkpoint says of itself (train/checkpoint.h). For those who write and read checkpoints.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "nibble/train/checkpoint.h"

namespace nibble {

inline constexpr const char* kOptimizerStem = "optimizer";
inline constexpr const char* kRecipeStem = "recipe";

/// A checkpoint's files by name, with their checksums (hex64).
using Checksums = std::map<std::string, std::string>;

nlohmann::json state_json(const TrainState& state, const Checksums& checksums, int ranks);

struct StoredState {
  TrainState state;
  std::vector<std::pair<std::string, std::string>> files;  ///< names and checksums, rank by rank of each kind
};
/// UserError for a state.json that cannot be read or does not list what belongs to its checkpoint. Looks at no other
/// file.
StoredState read_stored_state(const std::filesystem::path& checkpoint);
/// UserError where the file is missing or differs from its checksum.
void check_file(const std::filesystem::path& checkpoint, const std::string& name, const std::string& checksum);

/// RUN/checkpoints and a step's folder in it.
std::filesystem::path checkpoints_of(const std::filesystem::path& run);
std::filesystem::path checkpoint_of(const std::filesystem::path& run, std::int64_t step);
/// Checkpoint folders, the newest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);

}  // namespace nibble
