// Several recipes on identical data order and initial weights, side by side.
#pragma once

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/train/trainer.h"

namespace nibble {

struct CompareOptions {
  std::vector<std::string> recipes;  ///< the first is the baseline of all gaps
  std::int64_t seeds = 1;            ///< seeds of every recipe: config.seed, config.seed + 1, ...
  std::int64_t baseline_seeds = 2;   ///< seeds of the baseline, at least `seeds`: their spread is the noise
  std::filesystem::path out;
};

struct CompareCallbacks {
  std::function<void(const std::string& run, std::size_t index, std::size_t count)> on_run;
  TrainCallbacks train;
};

/// Trains (or resumes, or skips when complete) OUT/RECIPE-sSEED for every recipe and seed, and rewrites
/// OUT/compare.json (docs/formats.md) after each. Returns true when all runs are complete.
bool compare(const TrainConfig& config, const CompareOptions& options, const std::atomic<bool>& stop,
             const CompareCallbacks& callbacks);

}  // namespace nibble
