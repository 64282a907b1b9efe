#include "nibble/report/runs.h"

#include <algorithm>

#include "nibble/io/log_fields.h"

namespace nibble {
namespace {

using Json = OrderedJson;
namespace fs = std::filesystem;

void read_compare_json(const Json& json, CompareLog& compare) {
  compare.baseline = text_field(json, "baseline");
  compare.noise_percent = number_field(json, "noise_percent");
  compare.config_text = text_field(json, "config_text");
  compare.command = text_field(json, "command");
  if (const Json* seeds = child_field(json, "seeds", Json::value_t::array)) {
    for (const Json& seed : *seeds) {
      if (!seed.is_number_integer()) throw BadField("'seeds' holds something that is not an integer");
      compare.seeds.push_back(seed.get<std::uint64_t>());
    }
  }
  const Json* runs = child_field(json, "runs", Json::value_t::array);
  if (!runs) throw BadField("'runs' is missing");
  for (const Json& row : *runs) {
    if (!row.is_object()) throw BadField("'runs' holds something that is not an object");
    RunResult result{.name = text_field(row, "name"),
                     .directory = text_field(row, "dir"),
                     .recipe = text_field(row, "recipe"),
                     .seed = static_cast<std::uint64_t>(integer_field(row, "seed")),
                     .train_loss = number_field(row, "train_loss"),
                     .val_loss = number_field(row, "val_loss"),
                     .gap_percent = number_field(row, "gap_percent"),
                     .tokens_per_second = number_field(row, "tokens_per_second"),
                     .clamped_share = number_field(row, "clamped_share")};
    if (const Json* quality = child_field(row, "quality", Json::value_t::object)) {
      result.quality = parse_quality(*quality);
    }
    compare.runs.push_back(std::move(result));
  }
}

}  // namespace

bool is_compare_directory(const fs::path& directory) { return fs::is_regular_file(directory / "compare.json"); }

CompareLog load_compare(const fs::path& directory) {
  CompareLog compare;
  compare.directory = directory;
  const fs::path path = directory / "compare.json";
  const Json json = read_json_object(path);
  try {
    read_compare_json(json, compare);
  } catch (const BadField& bad) {
    user_error("{}: {}; run the comparison again", path.string(), bad.what());
  }
  return compare;
}

std::vector<CompareLog> load_completed_runs(const fs::path& directory, const std::string& baseline) {
  std::vector<fs::path> complete;
  std::error_code not_a_directory;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, not_a_directory)) {
    if (is_run_directory(entry.path()) && fs::is_regular_file(entry.path() / "result.json")) {
      complete.push_back(entry.path());
    }
  }
  std::sort(complete.begin(), complete.end());
  std::vector<CompareLog> all;
  for (const fs::path& run : complete) {
    const Json info = read_json_object(run / "run.json");
    const Json result = read_json_object(run / "result.json");
    try {
      CompareLog one;
      one.directory = directory;
      one.baseline = baseline;
      one.config_text = text_field(info, "config");
      one.runs.push_back({.name = run.filename().string(),
                          .directory = run.filename().string(),
                          .recipe = text_field(info, "recipe"),
                          .seed = static_cast<std::uint64_t>(integer_field(info, "seed")),
                          .train_loss = number_field(result, "train_loss"),
                          .val_loss = number_field(result, "val_loss"),
                          .tokens_per_second = number_field(result, "tokens_per_second"),
                          .clamped_share = number_field(result, "clamped_share")});
      one.seeds = {one.runs[0].seed};
      all.push_back(std::move(one));
    } catch (const BadField& bad) {
      user_error("{}: {}; run the recipe again", run.string(), bad.what());
    }
  }
  return all;
}

}  // namespace nibble
