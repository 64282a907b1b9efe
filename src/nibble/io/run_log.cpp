#include "nibble/io/run_log.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "nibble/io/json.h"
#include "nibble/io/log_fields.h"

namespace nibble {

namespace fs = std::filesystem;
using Json = OrderedJson;

namespace {

Products parse_products(const Json& object) {
  Products products;
  const Json* all = child_field(object, "products", Json::value_t::object);
  for (std::size_t i = 0; all && i < kProducts; ++i) {
    const Json* entry = child_field(*all, kProductNames[i], Json::value_t::object);
    if (!entry) continue;
    products[i] = {.cosine = number_field(*entry, "cosine"),
                   .magnitude = number_field(*entry, "magnitude"),
                   .noise = number_field(*entry, "noise")};
  }
  return products;
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

void read_telemetry(const Json& line, std::int64_t step, RunLog& run) {
  const Json* quality = child_field(line, "quality", Json::value_t::object);
  const Json* layers = child_field(line, "layers", Json::value_t::object);
  if (!quality && !layers) return;
  QualityPoint point;
  point.step = step;
  point.gradient_to_noise = number_field(line, "gradient_to_noise");
  if (quality) point.total.quality = parse_quality(*quality);
  point.total.products = parse_products(line);
  point.total.oscillation = number_field(line, "oscillation");
  if (layers) {
    for (const auto& [name, entry] : layers->items()) {
      if (!entry.is_object()) throw BadField("'layers." + name + "' is not an object");
      point.layers.push_back({.layer = name,
                              .quality = parse_quality(entry),
                              .products = parse_products(entry),
                              .oscillation = number_field(entry, "oscillation")});
    }
  }
  run.quality.push_back(std::move(point));
}

void read_metrics_line(const Json& line, RunLog& run) {
  if (!line.is_object() || !line.contains("step")) throw BadField("no object with a 'step'");
  const std::int64_t step = integer_field(line, "step");
  rewind_to(run.steps, step);
  rewind_to(run.validation, step);
  rewind_to(run.quality, step);
  rewind_to(run.stages, step);
  rewind_to(run.alarms, step);

  run.steps.push_back({.step = step,
                       .tokens = integer_field(line, "tokens"),
                       .loss = number_field(line, "loss"),
                       .learning_rate = number_field(line, "lr"),
                       .grad_norm = number_field(line, "grad_norm"),
                       .tokens_per_second = number_field(line, "tokens_per_second")});
  if (line.contains("val_loss")) run.validation.push_back({step, number_field(line, "val_loss")});
  const std::int64_t before = run.stages.empty() ? 1 : run.stages.back().stage;
  const std::int64_t stage = std::max<std::int64_t>(integer_field(line, "stage"), 1);
  if (stage != before) run.stages.push_back({step, stage});
  if (const Json* alarms = child_field(line, "alarms", Json::value_t::array)) {
    for (const Json& sentence : *alarms) {
      if (!sentence.is_string()) throw BadField("'alarms' holds something that is not a string");
      run.alarms.push_back({step, sentence.get<std::string>()});
    }
  }
  read_telemetry(line, step, run);
}

void read_metrics(const fs::path& path, RunLog& run) {
  if (!fs::exists(path)) return;
  std::ifstream file(path, std::ios::binary);
  if (!file) user_error("can't read {}: check its permissions", path.string());
  std::string line;
  for (std::int64_t number = 1; std::getline(file, line); ++number) {
    const bool ended_by_newline = !file.eof();
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Json parsed = is_too_deep(line) ? Json(Json::value_t::discarded) : Json::parse(line, nullptr, false);
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

void read_run_json(const Json& json, RunLog& run) {
  run.name = text_field(json, "name");
  run.recipe = text_field(json, "recipe");
  run.recipe_text = text_field(json, "recipe_text");
  run.command = text_field(json, "command");
  run.started = text_field(json, "started");
  run.seed = static_cast<std::uint64_t>(integer_field(json, "seed"));
  run.parameters = integer_field(json, "parameters");
  run.non_embedding_parameters = integer_field(json, "non_embedding_parameters");
  if (const Json* nibble = child_field(json, "nibble", Json::value_t::object)) {
    run.version = text_field(*nibble, "version");
  }
  if (const Json* table = child_field(json, "recipe_table", Json::value_t::array)) {
    for (const Json& row : *table) {
      if (!row.is_object()) throw BadField("'recipe_table' holds something that is not an object");
      run.recipe_table.push_back({text_field(row, "operand"), text_field(row, "where"), text_field(row, "spec")});
    }
  }
  for (const char* name : {"model", "train", "data", "paths", "machine"}) {
    if (const Json* section = child_field(json, name, Json::value_t::object)) {
      SettingsGroup group{name, {}};
      flatten(*section, "", group);
      run.settings.push_back(std::move(group));
    }
  }
}

/// Mean of the values that are not NaN; NaN when there is none.
double mean(const std::vector<double>& values) {
  double sum = 0;
  int count = 0;
  for (double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  return count == 0 ? kNotLogged : sum / count;
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  if (values.empty()) return kNotLogged;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

}  // namespace

Quality mean_quality(const std::vector<Quality>& all) {
  Quality result;
  for (std::size_t i = 0; i < kOperands; ++i) {
    std::vector<double> values(all.size());
    const auto mean_of = [&](double OperandQuality::*figure) {
      std::transform(all.begin(), all.end(), values.begin(), [&](const Quality& q) { return q[i].*figure; });
      return mean(values);
    };
    for (double OperandQuality::*figure :
         {&OperandQuality::cosine, &OperandQuality::relative_mse, &OperandQuality::underflow, &OperandQuality::clamped,
          &OperandQuality::clipped, &OperandQuality::bias, &OperandQuality::scale_saturated,
          &OperandQuality::scale_underflow}) {
      result[i].*figure = mean_of(figure);
    }
    std::transform(all.begin(), all.end(), values.begin(),
                   [&](const Quality& q) { return std::pow(10.0, -q[i].snr_db / 10.0); });
    result[i].snr_db = -10.0 * std::log10(mean(values));
  }
  return result;
}

bool is_run_directory(const fs::path& directory) { return fs::is_regular_file(directory / "run.json"); }

RunLog load_run(const fs::path& directory) {
  RunLog run;
  run.directory = directory;
  const fs::path path = directory / "run.json";
  const Json json = read_json_object(path);
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

RunFigures final_figures(const RunLog& run) {
  RunFigures figures;
  const std::size_t n = run.steps.size();
  const std::size_t tail = std::clamp<std::size_t>(n / 20, 1, 200);
  std::vector<double> losses;
  std::vector<double> rates;
  for (std::size_t i = 0; i < n; ++i) {
    if (i + tail >= n) losses.push_back(run.steps[i].loss);
    if (i >= n / 10) rates.push_back(run.steps[i].tokens_per_second);
  }
  if (n > 0) {
    figures.steps = run.steps.back().step;
    figures.tokens = run.steps.back().tokens;
  }
  figures.train_loss = mean(losses);
  figures.tokens_per_second = median(rates);
  if (!run.validation.empty()) figures.val_loss = run.validation.back().loss;
  std::vector<Quality> quality;
  for (const QualityPoint& point : run.quality) quality.push_back(point.total.quality);
  figures.quality = mean_quality(quality);
  figures.clamped_share = figures.quality[0].clamped;
  return figures;
}

}  // namespace nibble
