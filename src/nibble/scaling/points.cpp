#include "nibble/scaling/points.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "nibble/io/file.h"
#include "nibble/io/format.h"
#include "nibble/io/json.h"
#include "nibble/io/suggest.h"
#include "nibble/report/runs.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r") - first + 1));
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return text;
}

/// One row of a table: cells by column name.
using Cells = std::map<std::string, std::string>;

/// "FILE:LINE: column 'loss': ..."
class RowReader {
 public:
  RowReader(const Cells& cells, std::string where) : cells_(cells), where_(std::move(where)) {}

  std::optional<std::string> find(const char* column) const {
    const auto it = cells_.find(column);
    return it == cells_.end() || it->second.empty() ? std::nullopt : std::optional(it->second);
  }
  std::string text(const char* column) const {
    if (const auto value = find(column)) return *value;
    user_error("{}: the column '{}' is empty", where_, column);
  }
  double positive(const char* column) const {
    const std::string value = text(column);
    const double number = parse_count(value);
    if (std::isnan(number)) user_error("{}: column '{}': '{}' is not a positive number", where_, column, value);
    return number;
  }
  LossPoint point(const ModelSize& model_size) const {
    LossPoint point;
    point.recipe = text("recipe");
    if (find("params") || !find("model")) {
      point.params = positive("params");
    } else {
      try {
        point.params = model_size(*find("model"));
      } catch (const UserError& error) {
        user_error("{}: column 'model': {}", where_, error.what());
      }
    }
    point.tokens = find("tokens") || !find("ratio") ? positive("tokens") : positive("ratio") * point.params;
    point.loss = positive(find("loss") || !find("val_loss") ? "loss" : "val_loss");
    return point;
  }

 private:
  const Cells& cells_;
  std::string where_;
};

/// Each group of alternatives needs one column.
void check_columns(const std::vector<std::string>& columns, const std::string& where) {
  static const std::vector<std::vector<std::string>> kNeeded = {
      {"recipe"}, {"params", "model"}, {"tokens", "ratio"}, {"loss", "val_loss"}};
  for (const std::vector<std::string>& group : kNeeded) {
    const bool found = std::any_of(group.begin(), group.end(), [&](const std::string& name) {
      return std::find(columns.begin(), columns.end(), name) != columns.end();
    });
    if (found) continue;
    user_error("{}: the column '{}' is missing{}; the columns are {}", where, join_names(group, "' or '"),
               did_you_mean(group[0], columns), join_names(columns));
  }
}

std::vector<std::string> split_line(std::string_view line, char separator) {
  std::vector<std::string> cells;
  while (true) {
    const auto end = line.find(separator);
    std::string cell = trimmed(line.substr(0, end));
    if (cell.size() >= 2 && cell.front() == '"' && cell.back() == '"') cell = cell.substr(1, cell.size() - 2);
    cells.push_back(std::move(cell));
    if (end == std::string_view::npos) return cells;
    line.remove_prefix(end + 1);
  }
}

void read_text_table(const fs::path& path, char separator, const ModelSize& model_size,
                     std::vector<LossPoint>& points) {
  const std::string text = read_file(path);
  std::vector<std::string> header;
  std::string_view rest = text;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const auto end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (trimmed(line).empty() || trimmed(line).front() == '#') continue;
    const std::string where = fmt::format("{}:{}", path.string(), number);
    std::vector<std::string> cells = split_line(line, separator);
    if (header.empty()) {
      for (std::string& name : cells) name = lower(name);
      header = std::move(cells);
      check_columns(header, where);
      continue;
    }
    if (cells.size() != header.size()) {
      user_error("{}: {} cells under a header of {}", where, cells.size(), header.size());
    }
    Cells row;
    for (std::size_t i = 0; i < header.size(); ++i) row[header[i]] = cells[i];
    points.push_back(RowReader(row, where).point(model_size));
  }
}

void read_json_table(const fs::path& path, const ModelSize& model_size, std::vector<LossPoint>& points) {
  const Json rows = read_json(path);
  if (!rows.is_array()) user_error("{}: must be an array of objects, one a run", path.string());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string where = fmt::format("{}: entry {}", path.string(), i + 1);
    if (!rows[i].is_object()) user_error("{} is not an object", where);
    Cells row;
    std::vector<std::string> columns;
    for (const auto& [key, value] : rows[i].items()) {
      columns.push_back(lower(key));
      row[columns.back()] = value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
    }
    check_columns(columns, where);
    points.push_back(RowReader(row, where).point(model_size));
  }
}

class FolderReader {
 public:
  explicit FolderReader(LossPoints& out) : out_(out) {}

  void read(const fs::path& folder) {
    if (is_run_directory(folder)) return read_run(folder);
    if (is_compare_directory(folder)) {
      for (const RunResult& run : load_compare(folder).runs) read_run(folder / run.directory);
      return;
    }
    std::vector<fs::path> inside;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (is_run_directory(entry.path()) || is_compare_directory(entry.path())) inside.push_back(entry.path());
    }
    if (inside.empty()) {
      user_error("{}: neither a run (run.json), nor a comparison (compare.json), nor a folder of either",
                 folder.string());
    }
    std::sort(inside.begin(), inside.end());
    for (const fs::path& path : inside) read(path);
  }

 private:
  void read_run(const fs::path& folder) {
    if (!seen_.insert(fs::weakly_canonical(folder).string()).second) return;
    const RunLog run = load_run(folder);
    if (!fs::is_regular_file(folder / "result.json")) {
      out_.notes.push_back(fmt::format("{} is left out: the run is not complete", folder.string()));
      return;
    }
    if (run.validation.empty() || run.steps.empty() || !std::isfinite(run.validation.back().loss)) {
      out_.notes.push_back(fmt::format("{} is left out: it has no finite validation loss", folder.string()));
      return;
    }
    LossPoint point;
    point.recipe = run.recipe;
    point.params = static_cast<double>(run.non_embedding_parameters);
    point.tokens = static_cast<double>(run.steps.back().tokens);
    point.loss = run.validation.back().loss;
    const auto check = [&](double value, const char* file, const char* field) {
      if (std::isfinite(value) && value > 0) return;
      user_error("{}: '{}' is {}, must be a positive number", (folder / file).string(), field, value);
    };
    check(point.params, "run.json", "non_embedding_parameters");
    check(point.tokens, "metrics.jsonl", "tokens");
    check(point.loss, "metrics.jsonl", "val_loss");
    out_.points.push_back(std::move(point));
  }

  LossPoints& out_;
  std::set<std::string> seen_;
};

}  // namespace

double parse_count(std::string_view text) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return kNone;
  const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  if (suffix.size() > 1) return kNone;
  if (!suffix.empty()) {
    switch (suffix[0]) {
      case 'k': value *= 1e3; break;
      case 'M': value *= 1e6; break;
      case 'G':
      case 'B': value *= 1e9; break;
      case 'T': value *= 1e12; break;
      default: return kNone;
    }
  }
  return std::isfinite(value) && value > 0 ? value : kNone;
}

double parse_count(const std::string& text, const char* option) {
  const double value = parse_count(text);
  if (std::isnan(value)) {
    user_error("{}: '{}' is not a positive number (suffixes: k, M, G or B, T)", option, text);
  }
  return value;
}

LossPoints read_loss_points(const std::vector<fs::path>& sources, const ModelSize& model_size) {
  LossPoints out;
  FolderReader folders(out);
  for (const fs::path& source : sources) {
    if (fs::is_directory(source)) {
      folders.read(source);
    } else if (!fs::exists(source)) {
      user_error("there is no '{}': give run folders, folders of comparisons, or tables (.csv, .tsv, .json)",
                 source.string());
    } else if (source.extension() == ".csv") {
      read_text_table(source, ',', model_size, out.points);
    } else if (source.extension() == ".tsv") {
      read_text_table(source, '\t', model_size, out.points);
    } else if (source.extension() == ".json") {
      read_json_table(source, model_size, out.points);
    } else {
      user_error("{}: a table must be .csv, .tsv or .json", source.string());
    }
  }
  return out;
}

std::vector<std::string> recipes_of(const std::vector<LossPoint>& points) {
  std::vector<std::string> names;
  for (const LossPoint& point : points) {
    if (std::find(names.begin(), names.end(), point.recipe) == names.end()) names.push_back(point.recipe);
  }
  return names;
}

std::vector<LossPoint> points_of(const std::vector<LossPoint>& points, const std::string& recipe) {
  std::vector<LossPoint> some;
  for (const LossPoint& point : points) {
    if (point.recipe == recipe) some.push_back(point);
  }
  return some;
}

}  // namespace nibble
