// What a set of runs says: final figures, the gap to a baseline, and the noise.
//
// Gap of a run: 100 (loss / baseline loss - 1) per cent, against the baseline run of the same seed (same data
// order, same initialisation), or against the mean of the baseline runs where no seed matches; at the last step
// that both validated. Only runs of the same model have a gap. Noise: the spread of the baseline's seeds,
// 100 (max - min) / mean, in the same unit.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/report/runs.h"

namespace nibble {

/// Runs that differ in nothing but the seed: a row of the table, a colour of the plots.
struct RecipeSummary {
  std::string label;  ///< the recipe's name, or the run's where the recipe's name would be ambiguous
  bool is_baseline = false;
  std::vector<std::size_t> runs;  ///< indices into Comparison::results (and logs)
  std::vector<std::uint64_t> seeds;
  double train_loss = kNotLogged;  ///< this and the next five are means over the seeds
  double val_loss = kNotLogged;
  double gap_percent = kNotLogged;
  double tokens_per_second = kNotLogged;
  double clamped_share = kNotLogged;
  Quality quality;
  bool diverged = false;  ///< the last loss of a run is not finite; there is then no gap
};

struct Comparison {
  std::string title;
  std::vector<RunLog> logs;        ///< parallel to results, or empty where only compare.json was read
  std::vector<RunResult> results;  ///< one per run
  std::vector<RecipeSummary> recipes;
  std::string baseline;  ///< the recipe that gaps refer to; empty if no run has it
  double noise_percent = kNotLogged;
  bool gap_is_validation = true;  ///< false: a validation loss is missing, so some gap compares training losses
  bool unequal_lengths = false;   ///< the runs don't all end at the same step
  std::string config_text;        ///< of `nibble compare`, if there was one
  std::string command;
};

/// Groups runs by recipe and fills in gaps and noise where they are NaN. `results` may be empty (taken from the
/// logs) and so may `logs` (results as they stand); if both are given they are parallel.
Comparison compare_runs(std::vector<RunLog> logs, std::vector<RunResult> results = {}, std::string baseline = "bf16",
                        double noise_percent = kNotLogged);

/// A finished comparison as compare.json has it, without reading logs.
Comparison compare_results(const CompareLog& compare);

/// Loads run directories, comparison directories (with the runs they name) and directories of run directories.
/// The figures of compare.json are taken as they stand when it is the only argument, and computed from the logs
/// otherwise. Throws UserError where a directory is none of these.
Comparison load_comparison(const std::vector<std::filesystem::path>& directories);

/// The baseline runs that a run is compared with: the one of its seed, or all of its model; by index.
std::vector<std::size_t> baselines_of(const Comparison& comparison, std::size_t run);

/// Settings of model, training and data that are not the same in all runs: a key and one value a run.
struct SettingsDifference {
  std::string key;  ///< "train.learning_rate"
  std::vector<std::string> values;
};
std::vector<SettingsDifference> differing_settings(const std::vector<RunLog>& logs);

}  // namespace nibble
