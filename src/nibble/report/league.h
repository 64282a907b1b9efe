// The league: many recipes at one or more model sizes, by what they lose and what they cost.
//
// Sources are folders of comparisons (compare.json, docs/formats.md), or of runs, whose baseline is bf16 and of which
// those count that are complete (result.json). The gap of a recipe is the mean over its seeds of 100 (validation loss /
// baseline's validation loss of the same seed - 1), its error the standard error of that mean (seeds are paired, so
// what a seed does to all recipes alike cancels). On the Pareto front are the recipes that no other one beats in gap or
// cost without losing in the other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nibble/io/config_table.h"
#include "nibble/report/runs.h"

namespace nibble {

struct LeagueEntry {
  std::string recipe;
  bool is_baseline = false;
  std::vector<std::uint64_t> seeds;
  double train_loss = kNotLogged;  ///< at the end; this and the next two are means over the seeds
  double val_loss = kNotLogged;
  double tokens_per_second = kNotLogged;
  double gap_percent = kNotLogged;  ///< NaN where a run diverged or the baseline lacks its seeds
  double gap_error = kNotLogged;    ///< NaN for fewer than two pairs of seeds
  double relative_cost = kNotLogged;
  bool diverged = false;  ///< a validation loss is not finite
  bool pareto = false;
};

struct LeagueSize {
  std::string model;
  double parameters = 0;  ///< without embedding and head
  std::int64_t steps = 0;
  std::int64_t tokens = 0;  ///< that a run sees
  std::string data;
  std::string baseline;
  double noise_percent = kNotLogged;  ///< spread of the baseline's validation losses over its seeds
  std::vector<LeagueEntry> entries;   ///< by gap, those without one last
};

struct League {
  std::vector<LeagueSize> sizes;  ///< by parameters
  std::vector<std::string> sources;
};

/// What the league needs to know of models and recipes, from rooms that this one does not see.
struct LeagueKnowledge {
  /// Non-embedding parameters of a [model] table.
  std::function<double(const ConfigTable& model)> parameters;
  /// Theoretical cost over BF16's (cost/theory.h) of a recipe; `text` is empty where the run's folder is gone.
  std::function<double(const ConfigTable& model, const std::string& recipe, const std::string& text)> relative_cost;
};

/// UserError, one sentence, for folders with neither comparison nor completed runs and for what can't be compared: one
/// model with different data, steps, batch or optimizer, one recipe name with two texts, two results for one recipe and
/// seed, different baselines.
League make_league(const std::vector<std::filesystem::path>& sources, const LeagueKnowledge& knowledge);

/// "At 13.8 M parameters mine is closest to bf16 (+0.84 ± 0.05 %), at 30.5 M ..."
std::string league_headline(const League& league);

std::string league_text(const League& league);
std::string league_markdown(const League& league);
std::string league_json(const League& league);
/// One drawing with its own style: for every size gap over cost, and the gaps with their errors.
std::string league_svg(const League& league);
/// A self-contained page, as the report's.
std::string league_page(const League& league);

/// DIR/league.md, .json, .svg and .html, each all or nothing.
void write_league(const League& league, const std::filesystem::path& directory);

}  // namespace nibble
