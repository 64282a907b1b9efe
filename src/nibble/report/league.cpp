#include "nibble/report/league.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "nibble/io/json.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

/// The settings that make runs comparable, as text.
struct Settings {
  std::string model;                                     // the shape: what makes two runs one size
  std::vector<std::pair<std::string, std::string>> run;  // what must then be equal
};

Settings settings_of(const ConfigTable& config) {
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  constexpr double kAny = 1e300;
  Settings settings;
  const ConfigTable model = config.table("model");
  for (const char* key : {"layers", "width", "heads", "kv_heads", "ffn", "vocab", "seq"}) {
    settings.model += fmt::format("{} ", model.integer(key, 0, 0, kMost));
  }
  settings.model += model.boolean("tied_head", false) ? "tied" : "untied";
  const auto add = [&](const char* table, const char* key, const std::string& value) {
    settings.run.emplace_back(fmt::format("{}.{}", table, key), value);
  };
  add("data", "dir", config.table("data").text("dir", ""));
  const ConfigTable train = config.table("train");
  for (const char* key : {"steps", "batch"}) add("train", key, std::to_string(train.integer(key, 0, 0, kMost)));
  const ConfigTable optimizer = config.table("optimizer");
  for (const char* key : {"kind", "schedule"}) add("optimizer", key, optimizer.text(key, ""));
  for (const char* key : {"lr", "warmup_fraction", "warmup_start_ratio", "min_lr_ratio", "decay_fraction", "beta1",
                          "beta2", "eps", "weight_decay", "clip"}) {
    add("optimizer", key, fmt::format("{}", optimizer.number(key, 0, -kAny, kAny)));
  }
  return settings;
}

struct SourcedRun {
  RunResult result;
  fs::path source;
};

/// The runs of one size, from all comparisons that have it.
struct Gathered {
  Settings settings;
  fs::path source;
  std::string baseline;
  std::optional<ConfigTable> model;
  std::string name;
  std::map<std::pair<std::string, std::uint64_t>, SourcedRun> runs;
  std::map<std::string, std::pair<std::string, fs::path>> texts;  // recipe -> text and where it was
};

std::string recipe_text(const fs::path& run) {
  const fs::path file = run / "run.json";
  if (!fs::is_regular_file(file)) return {};
  const nlohmann::json json = read_json(file);
  return json.is_object() && json.contains("recipe_text") && json["recipe_text"].is_string()
             ? json["recipe_text"].get<std::string>()
             : std::string();
}

bool same_loss(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

void add_run(Gathered& size, const RunResult& run, const fs::path& source) {
  const std::string text = recipe_text(source / run.directory);
  if (!text.empty()) {
    const auto [it, added] = size.texts.emplace(run.recipe, std::pair{text, source});
    if (!added && it->second.first != text) {
      user_error("the recipe '{}' is not the same in {} and {}: rename one of them", run.recipe,
                 it->second.second.string(), source.string());
    }
  }
  const auto [it, added] = size.runs.emplace(std::pair{run.recipe, run.seed}, SourcedRun{run, source});
  if (!added && !same_loss(it->second.result.val_loss, run.val_loss)) {
    user_error("{} and {} have different results for recipe '{}' and seed {}: leave one of them out",
               it->second.source.string(), source.string(), run.recipe, run.seed);
  }
}

std::vector<CompareLog> load_source(const fs::path& source) {
  if (is_compare_directory(source)) return {load_compare(source)};
  std::vector<CompareLog> runs = load_completed_runs(source, "bf16");
  if (runs.empty()) {
    user_error("{} holds neither compare.json nor completed runs: name folders that 'nibble compare' wrote, or of runs",
               source.string());
  }
  return runs;
}

void add_comparison(const CompareLog& compare, std::map<std::string, Gathered>& sizes) {
  const fs::path& source = compare.directory;
  if (compare.baseline.empty() || compare.config_text.empty()) {
    user_error("the log of {} states no {}: run it again", source.string(),
               compare.baseline.empty() ? "baseline" : "configuration");
  }
  const ConfigTable config = ConfigTable::parse_text(compare.config_text, "the configuration in " + source.string());
  const Settings settings = settings_of(config);
  const auto [it, added] = sizes.try_emplace(settings.model);
  Gathered& size = it->second;
  if (added) {
    size.settings = settings;
    size.source = source;
    size.baseline = compare.baseline;
    size.model = config.table("model");
    size.name = size.model->text("name", "model");
  }
  for (std::size_t i = 0; i < settings.run.size(); ++i) {
    const auto& [key, value] = settings.run[i];
    const std::string& first = size.settings.run[i].second;
    if (value != first) {
      user_error("{} and {} can't share a league: both train {}, with {} = {} and {}", size.source.string(),
                 source.string(), size.name, key, first, value);
    }
  }
  if (compare.baseline != size.baseline) {
    user_error("{} and {} can't share a league: their baselines are {} and {}", size.source.string(), source.string(),
               size.baseline, compare.baseline);
  }
  for (const RunResult& run : compare.runs) add_run(size, run, source);
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? kNotLogged : sum / static_cast<double>(values.size());
}

/// Of the mean of independent values: sqrt(sum (x - mean)^2 / (n (n - 1))).
double standard_error(const std::vector<double>& values) {
  if (values.size() < 2) return kNotLogged;
  const double middle = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - middle) * (value - middle);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(sum / (n * (n - 1)));
}

LeagueEntry make_entry(const Gathered& size, const std::string& recipe, const LeagueKnowledge& knowledge) {
  LeagueEntry entry;
  entry.recipe = recipe;
  entry.is_baseline = recipe == size.baseline;
  std::vector<double> train_losses;
  std::vector<double> losses;
  std::vector<double> rates;
  std::vector<double> gaps;
  for (const auto& [key, run] : size.runs) {
    if (key.first != recipe) continue;
    entry.seeds.push_back(key.second);
    train_losses.push_back(run.result.train_loss);
    losses.push_back(run.result.val_loss);
    if (!std::isnan(run.result.tokens_per_second)) rates.push_back(run.result.tokens_per_second);
    entry.diverged = entry.diverged || !std::isfinite(run.result.val_loss);
    const auto baseline = size.runs.find({size.baseline, key.second});
    if (baseline != size.runs.end()) gaps.push_back(100 * (run.result.val_loss / baseline->second.result.val_loss - 1));
  }
  entry.tokens_per_second = mean(rates);
  if (!entry.diverged) {
    entry.train_loss = mean(train_losses);
    entry.val_loss = mean(losses);
    entry.gap_percent = mean(gaps);
    if (!entry.is_baseline) entry.gap_error = standard_error(gaps);
  }
  const auto text = size.texts.find(recipe);
  entry.relative_cost =
      knowledge.relative_cost(*size.model, recipe, text == size.texts.end() ? std::string() : text->second.first);
  return entry;
}

void mark_front(std::vector<LeagueEntry>& entries) {
  const auto counts = [](const LeagueEntry& e) {
    return std::isfinite(e.gap_percent) && std::isfinite(e.relative_cost);
  };
  for (LeagueEntry& entry : entries) {
    entry.pareto = counts(entry) && std::none_of(entries.begin(), entries.end(), [&](const LeagueEntry& other) {
                     return counts(other) && other.gap_percent <= entry.gap_percent &&
                            other.relative_cost <= entry.relative_cost &&
                            (other.gap_percent < entry.gap_percent || other.relative_cost < entry.relative_cost);
                   });
  }
}

LeagueSize make_size(const Gathered& gathered, const LeagueKnowledge& knowledge) {
  LeagueSize size;
  size.model = gathered.name;
  size.parameters = knowledge.parameters(*gathered.model);
  const auto setting = [&](const char* key) {
    for (const auto& [name, value] : gathered.settings.run) {
      if (name == key) return value;
    }
    return std::string();
  };
  size.data = setting("data.dir");
  size.steps = std::stoll(setting("train.steps"));
  size.tokens = size.steps * std::stoll(setting("train.batch")) * gathered.model->integer("seq", 0, 0, 1 << 30);
  size.baseline = gathered.baseline;
  std::vector<std::string> recipes;
  for (const auto& [key, run] : gathered.runs) {
    if (recipes.empty() || recipes.back() != key.first) recipes.push_back(key.first);
  }
  for (const std::string& recipe : recipes) size.entries.push_back(make_entry(gathered, recipe, knowledge));
  mark_front(size.entries);
  std::stable_sort(size.entries.begin(), size.entries.end(), [](const LeagueEntry& a, const LeagueEntry& b) {
    const double infinity = std::numeric_limits<double>::infinity();
    return (std::isnan(a.gap_percent) ? infinity : a.gap_percent) <
           (std::isnan(b.gap_percent) ? infinity : b.gap_percent);
  });
  std::vector<double> losses;
  for (const auto& [key, run] : gathered.runs) {
    if (key.first == size.baseline && std::isfinite(run.result.val_loss)) losses.push_back(run.result.val_loss);
  }
  if (losses.size() > 1) {
    const auto [low, high] = std::minmax_element(losses.begin(), losses.end());
    size.noise_percent = 100 * (*high - *low) / mean(losses);
  }
  return size;
}

}  // namespace

League make_league(const std::vector<fs::path>& sources, const LeagueKnowledge& knowledge) {
  if (sources.empty()) user_error("no comparison was named: pass --compare DIR, or --config F --recipes A,B,...");
  League league;
  std::map<std::string, Gathered> sizes;
  for (const fs::path& source : sources) {
    for (const CompareLog& compare : load_source(source)) add_comparison(compare, sizes);
    league.sources.push_back(source.string());
  }
  for (const auto& [key, gathered] : sizes) league.sizes.push_back(make_size(gathered, knowledge));
  std::stable_sort(league.sizes.begin(), league.sizes.end(),
                   [](const LeagueSize& a, const LeagueSize& b) { return a.parameters < b.parameters; });
  return league;
}

}  // namespace nibble
