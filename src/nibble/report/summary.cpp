#include "nibble/report/summary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "nibble/tensor/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

double mean(const std::vector<double>& values) {
  double sum = 0;
  std::size_t count = 0;
  for (double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  return count == 0 ? kNotLogged : sum / static_cast<double>(count);
}

const SettingsGroup* find_group(const RunLog& run, const std::string& name) {
  const auto it = std::find_if(run.settings.begin(), run.settings.end(), [&](const auto& g) { return g.name == name; });
  return it == run.settings.end() ? nullptr : &*it;
}

RunResult result_of(const RunLog& run) {
  const RunFigures figures = final_figures(run);
  return {.name = run.name,
          .directory = run.directory.string(),
          .recipe = run.recipe,
          .seed = run.seed,
          .train_loss = figures.train_loss,
          .val_loss = figures.val_loss,
          .tokens_per_second = figures.tokens_per_second,
          .clamped_share = figures.clamped_share,
          .quality = figures.quality};
}

bool same_model(const Comparison& comparison, std::size_t a, std::size_t b) {
  if (comparison.logs.empty()) return true;
  const RunLog& x = comparison.logs[a];
  const RunLog& y = comparison.logs[b];
  const SettingsGroup* model_x = find_group(x, "model");
  const SettingsGroup* model_y = find_group(y, "model");
  return x.parameters == y.parameters && (model_x && model_y ? model_x->values == model_y->values : model_x == model_y);
}

/// Validation losses of a run and of its baselines at the last step that all of them validated; empty if none.
std::vector<double> last_common_validation(const std::vector<const RunLog*>& runs) {
  for (auto point = runs[0]->validation.rbegin(); point != runs[0]->validation.rend(); ++point) {
    std::vector<double> losses{point->loss};
    for (std::size_t i = 1; i < runs.size(); ++i) {
      for (const ValidationPoint& other : runs[i]->validation) {
        if (other.step == point->step) losses.push_back(other.loss);
      }
    }
    if (losses.size() == runs.size()) return losses;
  }
  return {};
}

void fill_gap(Comparison& comparison, std::size_t run) {
  const std::vector<std::size_t> baselines = baselines_of(comparison, run);
  if (baselines.empty()) return;
  RunResult& result = comparison.results[run];
  std::vector<double> train{result.train_loss};
  std::vector<double> validation{result.val_loss};
  std::vector<const RunLog*> logs;
  if (!comparison.logs.empty()) logs.push_back(&comparison.logs[run]);
  for (std::size_t i : baselines) {
    train.push_back(comparison.results[i].train_loss);
    validation.push_back(comparison.results[i].val_loss);
    if (!comparison.logs.empty()) logs.push_back(&comparison.logs[i]);
  }
  if (!logs.empty()) {
    const std::vector<double> common = last_common_validation(logs);
    if (!common.empty()) validation = common;
  }
  const bool has_validation =
      std::none_of(validation.begin(), validation.end(), [](double loss) { return std::isnan(loss); });
  if (!has_validation) comparison.gap_is_validation = false;
  const std::vector<double>& losses = has_validation ? validation : train;
  result.gap_percent = 100 * (losses[0] / mean({losses.begin() + 1, losses.end()}) - 1);
}

/// Takes from the logs what compare.json left out. Losses stay as they are: a missing one is a run that diverged.
void fill_from_logs(Comparison& comparison) {
  for (std::size_t i = 0; i < comparison.logs.size(); ++i) {
    const RunResult logged = result_of(comparison.logs[i]);
    RunResult& result = comparison.results[i];
    const auto is_logged = [](const OperandQuality& q) { return !std::isnan(q.snr_db); };
    if (std::none_of(result.quality.begin(), result.quality.end(), is_logged)) result.quality = logged.quality;
    if (std::isnan(result.tokens_per_second)) result.tokens_per_second = logged.tokens_per_second;
    if (std::isnan(result.clamped_share)) result.clamped_share = logged.clamped_share;
  }
}

double spread_percent(const std::vector<double>& losses) {
  if (losses.size() < 2) return kNotLogged;
  for (double loss : losses) {
    if (!std::isfinite(loss)) return kNotLogged;
  }
  const auto [low, high] = std::minmax_element(losses.begin(), losses.end());
  return 100 * (*high - *low) / mean(losses);
}

void group_by_recipe(Comparison& comparison) {
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < comparison.results.size(); ++i) {
    const auto fits = [&](const std::vector<std::size_t>& group) {
      return comparison.results[group[0]].recipe == comparison.results[i].recipe && same_model(comparison, group[0], i);
    };
    const auto group = std::find_if(groups.begin(), groups.end(), fits);
    if (group == groups.end()) {
      groups.push_back({i});
    } else {
      group->push_back(i);
    }
  }
  // One seed twice means that something else differs: such runs stand each for itself.
  std::vector<std::vector<std::size_t>> split;
  for (const std::vector<std::size_t>& group : groups) {
    std::set<std::uint64_t> seeds;
    for (std::size_t i : group) seeds.insert(comparison.results[i].seed);
    if (seeds.size() == group.size()) {
      split.push_back(group);
    } else {
      for (std::size_t i : group) split.push_back({i});
    }
  }
  std::map<std::string, int> recipe_count;
  std::map<std::string, int> name_count;
  for (const std::vector<std::size_t>& group : split) {
    ++recipe_count[comparison.results[group[0]].recipe];
    ++name_count[comparison.results[group[0]].name];
  }
  for (const std::vector<std::size_t>& group : split) {
    const RunResult& first = comparison.results[group[0]];
    RecipeSummary summary;
    summary.label = recipe_count[first.recipe] == 1 ? first.recipe
                    : name_count[first.name] == 1   ? first.name
                                                    : first.directory;
    summary.is_baseline = !comparison.baseline.empty() && first.recipe == comparison.baseline;
    summary.runs = group;
    comparison.recipes.push_back(std::move(summary));
  }
  std::stable_partition(comparison.recipes.begin(), comparison.recipes.end(),
                        [](const RecipeSummary& recipe) { return recipe.is_baseline; });
}

void average_seeds(Comparison& comparison, RecipeSummary& recipe) {
  const auto over_seeds = [&](auto get) {
    std::vector<double> values;
    for (std::size_t i : recipe.runs) values.push_back(get(comparison.results[i]));
    return mean(values);
  };
  recipe.train_loss = over_seeds([](const RunResult& r) { return r.train_loss; });
  recipe.val_loss = over_seeds([](const RunResult& r) { return r.val_loss; });
  recipe.gap_percent = over_seeds([](const RunResult& r) { return r.gap_percent; });
  recipe.tokens_per_second = over_seeds([](const RunResult& r) { return r.tokens_per_second; });
  recipe.clamped_share = over_seeds([](const RunResult& r) { return r.clamped_share; });
  std::vector<Quality> quality;
  for (std::size_t i : recipe.runs) {
    quality.push_back(comparison.results[i].quality);
    recipe.seeds.push_back(comparison.results[i].seed);
    if (comparison.logs.empty()) {
      recipe.diverged = recipe.diverged || !std::isfinite(comparison.results[i].train_loss);
    } else if (!comparison.logs[i].steps.empty()) {
      recipe.diverged = recipe.diverged || !std::isfinite(comparison.logs[i].steps.back().loss);
    }
  }
  if (recipe.diverged) recipe.gap_percent = kNotLogged;
  recipe.quality = mean_quality(quality);
}

void add_directory(const fs::path& directory, std::vector<RunLog>& logs) {
  if (is_compare_directory(directory)) {
    for (const RunResult& run : load_compare(directory).runs) logs.push_back(load_run(directory / run.directory));
    return;
  }
  if (is_run_directory(directory)) {
    logs.push_back(load_run(directory));
    return;
  }
  std::vector<fs::path> inside;
  if (fs::is_directory(directory)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
      if (entry.is_directory() && is_run_directory(entry.path())) inside.push_back(entry.path());
    }
  }
  if (inside.empty()) {
    user_error(
        "{} holds neither run.json nor compare.json nor run directories: name what 'nibble train' or "
        "'nibble compare' wrote",
        directory.string());
  }
  std::sort(inside.begin(), inside.end());
  for (const fs::path& path : inside) logs.push_back(load_run(path));
}

std::string title_of(const std::vector<fs::path>& directories) {
  std::string title;
  for (const fs::path& directory : directories) {
    title +=
        (title.empty() ? "" : ", ") + fs::absolute(directory / "").lexically_normal().parent_path().filename().string();
  }
  return title;
}

}  // namespace

std::vector<std::size_t> baselines_of(const Comparison& comparison, std::size_t run) {
  std::vector<std::size_t> baselines;
  if (comparison.baseline.empty()) return baselines;
  for (std::size_t i = 0; i < comparison.results.size(); ++i) {
    if (comparison.results[i].recipe != comparison.baseline || !same_model(comparison, run, i)) continue;
    if (comparison.results[i].seed == comparison.results[run].seed) return {i};
    baselines.push_back(i);
  }
  return baselines;
}

Comparison compare_runs(std::vector<RunLog> logs, std::vector<RunResult> results, std::string baseline,
                        double noise_percent) {
  require(logs.empty() || results.empty() || logs.size() == results.size(), "{} logs but {} results", logs.size(),
          results.size());
  Comparison comparison;
  comparison.logs = std::move(logs);
  comparison.results = std::move(results);
  comparison.noise_percent = noise_percent;
  if (comparison.results.empty()) {
    for (const RunLog& run : comparison.logs) comparison.results.push_back(result_of(run));
  } else {
    fill_from_logs(comparison);
  }
  const auto is_baseline = [&](const RunResult& result) { return result.recipe == baseline; };
  if (std::any_of(comparison.results.begin(), comparison.results.end(), is_baseline)) comparison.baseline = baseline;

  for (std::size_t i = 0; i < comparison.results.size(); ++i) {
    if (std::isnan(comparison.results[i].gap_percent)) fill_gap(comparison, i);
  }
  group_by_recipe(comparison);
  for (RecipeSummary& recipe : comparison.recipes) average_seeds(comparison, recipe);

  if (std::isnan(noise_percent) && !comparison.recipes.empty() && comparison.recipes[0].is_baseline) {
    std::vector<double> validation;
    std::vector<double> train;
    for (std::size_t i : comparison.recipes[0].runs) {
      validation.push_back(comparison.results[i].val_loss);
      train.push_back(comparison.results[i].train_loss);
    }
    comparison.noise_percent = spread_percent(comparison.gap_is_validation ? validation : train);
  }
  std::set<std::int64_t> lengths;
  for (const RunLog& run : comparison.logs) lengths.insert(run.steps.empty() ? 0 : run.steps.back().step);
  comparison.unequal_lengths = lengths.size() > 1;
  return comparison;
}

Comparison compare_results(const CompareLog& compare) {
  Comparison comparison = compare_runs({}, compare.runs, compare.baseline, compare.noise_percent);
  comparison.title = title_of({compare.directory});
  comparison.config_text = compare.config_text;
  comparison.command = compare.command;
  return comparison;
}

Comparison load_comparison(const std::vector<fs::path>& directories) {
  if (directories.empty()) user_error("no run directory was named: say which, as in 'nibble report runs/demo'");
  std::vector<RunLog> logs;
  for (const fs::path& directory : directories) add_directory(directory, logs);
  Comparison comparison;
  if (directories.size() == 1 && is_compare_directory(directories[0])) {
    const CompareLog compare = load_compare(directories[0]);
    comparison = compare_runs(std::move(logs), compare.runs, compare.baseline, compare.noise_percent);
    comparison.config_text = compare.config_text;
    comparison.command = compare.command;
  } else {
    comparison = compare_runs(std::move(logs));
  }
  comparison.title = title_of(directories);
  return comparison;
}

std::vector<SettingsDifference> differing_settings(const std::vector<RunLog>& logs) {
  std::vector<SettingsDifference> rows;
  for (std::size_t i = 0; i < logs.size(); ++i) {
    for (const SettingsGroup& group : logs[i].settings) {
      if (group.name == "machine" || group.name == "paths") continue;
      for (const auto& [key, value] : group.values) {
        const std::string name = group.name + "." + key;
        auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.key == name; });
        if (row == rows.end()) row = rows.insert(rows.end(), {name, std::vector<std::string>(logs.size())});
        row->values[i] = value;
      }
    }
  }
  std::erase_if(rows, [](const SettingsDifference& row) {
    return row.key.ends_with("seed") ||
           std::all_of(row.values.begin(), row.values.end(), [&](const auto& v) { return v == row.values[0]; });
  });
  return rows;
}

}  // namespace nibble
