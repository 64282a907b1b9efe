// Comparisons as they lie on disk: a directory that holds compare.json (the final figures of its runs, docs/formats.md)
// beside the run directories it names; and directories of runs that nothing compared yet. A number that is null or
// missing is read as NaN.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/io/run_log.h"

namespace nibble {

/// One row of compare.json: the final figures of a run.
struct RunResult {
  std::string name{};
  std::string directory{};  ///< relative to the comparison directory
  std::string recipe{};
  std::uint64_t seed = 0;
  double train_loss = kNotLogged;
  double val_loss = kNotLogged;
  double gap_percent = kNotLogged;  ///< 100 (loss / baseline loss - 1)
  double tokens_per_second = kNotLogged;
  double clamped_share = kNotLogged;  ///< of the activations, in [0, 1]
  Quality quality{};
};

struct CompareLog {
  std::filesystem::path directory;
  std::string baseline;               ///< the recipe that gaps refer to; empty if there is none
  double noise_percent = kNotLogged;  ///< spread of the baseline's seeds, 100 (max - min) / mean
  std::vector<std::uint64_t> seeds;
  std::vector<RunResult> runs;
  std::string config_text;
  std::string command;
};

bool is_compare_directory(const std::filesystem::path& directory);

/// Reads compare.json alone; the runs it names are loaded with load_run. Throws UserError.
CompareLog load_compare(const std::filesystem::path& directory);

/// The completed runs, those with result.json (docs/formats.md), of a directory of run directories: a comparison of one
/// run each, by name, whose config_text is the run's. Throws UserError.
std::vector<CompareLog> load_completed_runs(const std::filesystem::path& directory, const std::string& baseline);

}  // namespace nibble
