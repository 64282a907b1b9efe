#include "nibble/train/compare.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "nibble/io/file.h"
#include "nibble/io/json.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

struct Run {
  Recipe recipe;
  std::uint64_t seed = 1;
  std::string name() const { return fmt::format("{}-s{}", recipe.name, seed); }
};

/// Baseline seed 1, then the other recipes with seed 1, then further seeds: a comparison that is stopped early has its
/// most useful part done.
std::vector<Run> plan(const TrainConfig& config, const CompareOptions& options) {
  std::vector<Recipe> recipes;
  std::set<std::string> names;
  for (const std::string& name : options.recipes) {
    recipes.push_back(load_recipe(find_recipe(name)));
    if (!names.insert(recipes.back().name).second) {
      user_error("the recipe '{}' is listed twice: give each recipe file a name of its own", recipes.back().name);
    }
  }
  std::vector<Run> runs;
  const std::int64_t most = std::max(options.seeds, options.baseline_seeds);
  for (std::int64_t s = 0; s < most; ++s) {
    for (std::size_t r = 0; r < recipes.size(); ++r) {
      if (s < options.seeds || (r == 0 && s < options.baseline_seeds)) {
        runs.push_back({recipes[r], config.seed + static_cast<std::uint64_t>(s)});
      }
    }
  }
  return runs;
}

/// Spread of the baseline's validation losses over its seeds, in per cent of their mean; null with one seed.
nlohmann::json noise_percent(const nlohmann::json& runs, const std::string& baseline) {
  std::vector<double> losses;
  for (const auto& run : runs) {
    if (run["recipe"] == baseline && !run["val_loss"].is_null()) losses.push_back(run["val_loss"].get<double>());
  }
  if (losses.size() < 2) return nullptr;
  const auto [low, high] = std::minmax_element(losses.begin(), losses.end());
  double mean = 0;
  for (double loss : losses) mean += loss / static_cast<double>(losses.size());
  return 100.0 * (*high - *low) / mean;
}

/// Mean and its standard error; null without values, and the error with fewer than two.
std::pair<nlohmann::json, nlohmann::json> mean_and_error(const std::vector<double>& values) {
  if (values.empty()) return {nullptr, nullptr};
  const auto n = static_cast<double>(values.size());
  double mean = 0;
  for (double value : values) mean += value / n;
  if (values.size() < 2) return {mean, nullptr};
  double squares = 0;
  for (double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (n - 1) / n)};
}

/// What the runs of each recipe come to, in the order of the recipes' first runs.
nlohmann::json by_recipe(const nlohmann::json& runs) {
  std::vector<std::string> names;
  for (const auto& run : runs) {
    const auto name = run["recipe"].get<std::string>();
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  nlohmann::json recipes = nlohmann::json::array();
  for (const std::string& name : names) {
    nlohmann::json recipe = {{"recipe", name}, {"seeds", nlohmann::json::array()}};
    for (const char* figure : {"train_loss", "val_loss", "gap_percent", "tokens_per_second"}) {
      std::vector<double> values;
      for (const auto& run : runs) {
        if (run["recipe"] == name && !run[figure].is_null()) values.push_back(run[figure].get<double>());
      }
      const auto [mean, error] = mean_and_error(values);
      recipe[figure] = mean;
      if (std::string_view(figure) == "gap_percent") recipe["gap_percent_standard_error"] = error;
    }
    for (const auto& run : runs) {
      if (run["recipe"] == name) recipe["seeds"].push_back(run["seed"]);
    }
    recipes.push_back(std::move(recipe));
  }
  return recipes;
}

void write_comparison(const TrainConfig& config, const CompareOptions& options, const std::vector<Run>& runs) {
  nlohmann::json list = nlohmann::json::array();
  nlohmann::json baseline_loss = nlohmann::json::object();  // validation loss by seed
  const std::string baseline = runs.front().recipe.name;
  std::set<std::uint64_t> seeds;
  for (const Run& run : runs) {
    const fs::path result_file = options.out / run.name() / "result.json";
    if (!fs::exists(result_file)) continue;
    const nlohmann::json result = read_json(result_file);
    const std::string seed = std::to_string(run.seed);
    if (run.recipe.name == baseline) baseline_loss[seed] = result["val_loss"];
    nlohmann::json gap;
    if (baseline_loss.contains(seed) && !baseline_loss[seed].is_null() && !result["val_loss"].is_null()) {
      const double reference = baseline_loss[seed].get<double>();
      gap = 100.0 * (result["val_loss"].get<double>() - reference) / reference;
    }
    seeds.insert(run.seed);
    nlohmann::json quality = nlohmann::json::object();
    for (const auto& [operand, snr] : result["snr_db"].items()) quality[operand] = {{"snr_db", snr}};
    list.push_back({{"name", run.name()},
                    {"dir", run.name()},
                    {"recipe", run.recipe.name},
                    {"seed", run.seed},
                    {"steps", result["steps"]},
                    {"tokens", result["tokens"]},
                    {"train_loss", result["train_loss"]},
                    {"val_loss", result["val_loss"]},
                    {"gap_percent", gap},
                    {"tokens_per_second", result["tokens_per_second"]},
                    {"clamped_share", result["clamped_share"]},
                    {"quality", quality}});
  }
  write_json_atomic(options.out / "compare.json", {{"baseline", baseline},
                                                   {"noise_percent", noise_percent(list, baseline)},
                                                   {"seeds", seeds},
                                                   {"recipes", by_recipe(list)},
                                                   {"runs", list},
                                                   {"config_text", to_toml(config)}});
}

}  // namespace

bool compare(const TrainConfig& config, const CompareOptions& options, const std::atomic<bool>& stop,
             const CompareCallbacks& callbacks) {
  if (options.recipes.empty()) user_error("no recipe to compare: pass --recipes bf16,NAME,...");
  const std::vector<Run> runs = plan(config, options);
  make_directories(options.out);
  bool complete = true;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const fs::path folder = options.out / runs[i].name();
    TrainConfig settings = config;
    settings.recipe = runs[i].recipe.name;
    settings.seed = runs[i].seed;
    if (callbacks.on_run) callbacks.on_run(runs[i].name(), i, runs.size());
    // `train` returns at once for a run that is complete, and refuses one with other settings.
    complete = train(settings, runs[i].recipe, folder, Resume::IfPresent, stop, callbacks.train) && complete;
    write_comparison(config, options, runs);
    if (stop) break;
  }
  return complete;
}

}  // namespace nibble
