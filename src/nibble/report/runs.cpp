#include "nibble/report/runs.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/io/file.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr double kExact = std::numeric_limits<double>::infinity();

/// A value of a wrong type is an error of the file, reported with `where` by the caller.
struct BadField : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void bad_field(const char* key, const char* wanted) {
  throw BadField(fmt::format("'{}' is not {}", key, wanted));
}

double number(const Json& object, const char* key, double if_null = kNotLogged) {
  const auto it = object.find(key);
  if (it == object.end()) return kNotLogged;
  if (it->is_null()) return if_null;
  if (!it->is_number()) bad_field(key, "a number");
  return it->get<double>();
}

std::int64_t integer(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return 0;
  if (!it->is_number_integer()) bad_field(key, "an integer");
  return it->get<std::int64_t>();
}

std::string text(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return {};
  if (!it->is_string()) bad_field(key, "a string");
  return it->get<std::string>();
}

/// A member that must be an object (or array) when it is there; null pointer when it is not.
const Json* child(const Json& object, const char* key, Json::value_t kind) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return nullptr;
  if (it->type() != kind) bad_field(key, kind == Json::value_t::array ? "an array" : "an object");
  return &*it;
}

Quality parse_quality(const Json& object) {
  Quality quality;
  for (std::size_t i = 0; i < kOperands; ++i) {
    const Json* entry = child(object, kOperandNames[i], Json::value_t::object);
    if (!entry) continue;
    quality[i] = {.snr_db = number(*entry, "snr_db", kExact),
                  .cosine = number(*entry, "cosine"),
                  .relative_mse = number(*entry, "relative_mse"),
                  .underflow = number(*entry, "underflow"),
                  .clamped = number(*entry, "clamped")};
  }
  return quality;
}

std::string plain(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{:.6g}", value.get<double>());
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void flatten(const Json& value, const std::string& prefix, SettingsGroup& group) {
  if (!value.is_object()) {
    group.values.emplace_back(prefix, plain(value));
    return;
  }
  for (const auto& [key, member] : value.items()) flatten(member, prefix.empty() ? key : prefix + "." + key, group);
}

/// Drops what an earlier attempt logged at or beyond `step`.
template <class Record>
void rewind_to(std::vector<Record>& records, std::int64_t step) {
  while (!records.empty() && records.back().step >= step) records.pop_back();
}

void read_metrics_line(const Json& line, RunLog& run) {
  if (!line.is_object() || !line.contains("step")) throw BadField("no object with a 'step'");
  const std::int64_t step = integer(line, "step");
  rewind_to(run.steps, step);
  rewind_to(run.validation, step);
  rewind_to(run.quality, step);
  if (run.layers_step >= step) run.layers.clear();

  run.steps.push_back({.step = step,
                       .tokens = integer(line, "tokens"),
                       .loss = number(line, "loss"),
                       .learning_rate = number(line, "lr"),
                       .grad_norm = number(line, "grad_norm"),
                       .tokens_per_second = number(line, "tokens_per_second")});
  if (line.contains("val_loss")) run.validation.push_back({step, number(line, "val_loss")});
  if (const Json* quality = child(line, "quality", Json::value_t::object)) {
    run.quality.push_back({step, parse_quality(*quality)});
  }
  if (const Json* layers = child(line, "layers", Json::value_t::object)) {
    run.layers.clear();
    run.layers_step = step;
    for (const auto& [name, entry] : layers->items()) {
      if (!entry.is_object()) throw BadField("'layers." + name + "' is not an object");
      run.layers.push_back({name, parse_quality(entry)});
    }
  }
}

void read_metrics(const fs::path& path, RunLog& run) {
  if (!fs::exists(path)) return;
  std::ifstream file(path, std::ios::binary);
  if (!file) user_error("can't read {}: check its permissions", path.string());
  std::string line;
  for (std::int64_t number = 1; std::getline(file, line); ++number) {
    const bool ended_by_newline = !file.eof();
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Json parsed = Json::parse(line, nullptr, false);
    if (parsed.is_discarded()) {
      if (!ended_by_newline) return;
      user_error("{}:{}: not a JSON object; delete the line or run the recipe again", path.string(), number);
    }
    try {
      read_metrics_line(parsed, run);
    } catch (const BadField& bad) {
      user_error("{}:{}: {}; delete the line or run the recipe again", path.string(), number, bad.what());
    }
  }
}

Json parse_object(const fs::path& path) {
  Json json;
  try {
    json = Json::parse(read_file(path));
  } catch (const Json::parse_error& error) {
    user_error("{}: not valid JSON at byte {}; run the command that wrote it again", path.string(), error.byte);
  }
  if (!json.is_object()) user_error("{}: the top level is not an object", path.string());
  return json;
}

void read_run_json(const Json& json, RunLog& run) {
  run.name = text(json, "name");
  run.recipe = text(json, "recipe");
  run.recipe_text = text(json, "recipe_text");
  run.command = text(json, "command");
  run.started = text(json, "started");
  run.seed = static_cast<std::uint64_t>(integer(json, "seed"));
  run.parameters = integer(json, "parameters");
  run.non_embedding_parameters = integer(json, "non_embedding_parameters");
  if (const Json* nibble = child(json, "nibble", Json::value_t::object)) run.version = text(*nibble, "version");
  if (const Json* table = child(json, "recipe_table", Json::value_t::array)) {
    for (const Json& row : *table) {
      if (!row.is_object()) throw BadField("'recipe_table' holds something that is not an object");
      run.recipe_table.push_back({text(row, "operand"), text(row, "spec")});
    }
  }
  for (const char* name : {"model", "train", "data", "paths", "machine"}) {
    if (const Json* section = child(json, name, Json::value_t::object)) {
      SettingsGroup group{name, {}};
      flatten(*section, "", group);
      run.settings.push_back(std::move(group));
    }
  }
}

void read_compare_json(const Json& json, CompareLog& compare) {
  compare.baseline = text(json, "baseline");
  compare.noise_percent = number(json, "noise_percent");
  compare.config_text = text(json, "config_text");
  compare.command = text(json, "command");
  if (const Json* seeds = child(json, "seeds", Json::value_t::array)) {
    for (const Json& seed : *seeds) {
      if (!seed.is_number_integer()) throw BadField("'seeds' holds something that is not an integer");
      compare.seeds.push_back(seed.get<std::uint64_t>());
    }
  }
  const Json* runs = child(json, "runs", Json::value_t::array);
  if (!runs) throw BadField("'runs' is missing");
  for (const Json& row : *runs) {
    if (!row.is_object()) throw BadField("'runs' holds something that is not an object");
    RunResult result{.name = text(row, "name"),
                     .directory = text(row, "dir"),
                     .recipe = text(row, "recipe"),
                     .seed = static_cast<std::uint64_t>(integer(row, "seed")),
                     .train_loss = number(row, "train_loss"),
                     .val_loss = number(row, "val_loss"),
                     .gap_percent = number(row, "gap_percent"),
                     .tokens_per_second = number(row, "tokens_per_second"),
                     .clamped_share = number(row, "clamped_share")};
    if (const Json* quality = child(row, "quality", Json::value_t::object)) result.quality = parse_quality(*quality);
    compare.runs.push_back(std::move(result));
  }
}

/// Mean of the logged values that `get` picks.
template <class Get>
double mean_of(const std::vector<Quality>& all, std::size_t operand, Get get) {
  double sum = 0;
  int count = 0;
  for (const Quality& quality : all) {
    const double value = get(quality[operand]);
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  return count == 0 ? kNotLogged : sum / count;
}

}  // namespace

Quality mean_quality(const std::vector<Quality>& all) {
  Quality mean;
  for (std::size_t i = 0; i < kOperands; ++i) {
    const double noise = mean_of(all, i, [](const OperandQuality& q) { return std::pow(10.0, -q.snr_db / 10.0); });
    mean[i] = {.snr_db = -10.0 * std::log10(noise),
               .cosine = mean_of(all, i, [](const OperandQuality& q) { return q.cosine; }),
               .relative_mse = mean_of(all, i, [](const OperandQuality& q) { return q.relative_mse; }),
               .underflow = mean_of(all, i, [](const OperandQuality& q) { return q.underflow; }),
               .clamped = mean_of(all, i, [](const OperandQuality& q) { return q.clamped; })};
  }
  return mean;
}

bool is_run_directory(const fs::path& directory) { return fs::is_regular_file(directory / "run.json"); }
bool is_compare_directory(const fs::path& directory) { return fs::is_regular_file(directory / "compare.json"); }

RunLog load_run(const fs::path& directory) {
  RunLog run;
  run.directory = directory;
  const fs::path path = directory / "run.json";
  const Json json = parse_object(path);
  try {
    read_run_json(json, run);
  } catch (const BadField& bad) {
    user_error("{}: {}; run the recipe again", path.string(), bad.what());
  }
  if (run.name.empty()) run.name = fs::absolute(directory).lexically_normal().filename().string();
  if (run.recipe.empty()) run.recipe = run.name;
  read_metrics(directory / "metrics.jsonl", run);
  return run;
}

CompareLog load_compare(const fs::path& directory) {
  CompareLog compare;
  compare.directory = directory;
  const fs::path path = directory / "compare.json";
  const Json json = parse_object(path);
  try {
    read_compare_json(json, compare);
  } catch (const BadField& bad) {
    user_error("{}: {}; run the comparison again", path.string(), bad.what());
  }
  return compare;
}

}  // namespace nibble
