#include "nibble/eval/items.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nibble/data/line_reader.h"
#include "nibble/data/text_reader.h"
#include "nibble/eval/render.h"
#include "nibble/io/format.h"
#include "nibble/io/json.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kMostRowBytes = std::uint64_t{64} << 20;  // far above the longest article

void replace_values(const Task& task, nlohmann::json& row, const std::string& where) {
  for (const auto& [field, values] : task.replace) {
    if (!row.contains(field) || !row[field].is_string()) user_error("{}: this row has no text '{}'", where, field);
    const auto found = values.find(row[field].get<std::string>());
    if (found == values.end()) {
      user_error("{}: the field '{}' holds '{}', must be one of {}", where, field, row[field].get<std::string>(),
                 join_names(names_of(values)));
    }
    row[field] = found->second;
  }
}

std::vector<std::string> render_each(const std::vector<Template>& templates, const std::vector<TextRule>& clean,
                                     const nlohmann::json& row, const std::string& where) {
  std::vector<std::string> all;
  for (const Template& one : templates) {
    for (std::string& text : render_all(one, row, where)) all.push_back(std::move(text));
  }
  for (std::string& text : all) {
    for (const TextRule rule : clean) text = apply_text_rule(rule, text);
  }
  return all;
}

std::int64_t gold_of(const Task& task, std::size_t choices, const nlohmann::json& row, const std::string& where) {
  const std::string answer = render(*task.gold, row, where);
  std::vector<std::string> answers = render_each(task.gold_among, {}, row, where);
  for (std::size_t i = 0; task.gold_among.empty() && i < choices; ++i) answers.push_back(std::to_string(i));
  const auto found = std::find(answers.begin(), answers.end(), answer);
  if (found == answers.end() || static_cast<std::size_t>(found - answers.begin()) >= choices) {
    answers.resize(std::min(answers.size(), choices));
    user_error("{}: the answer '{}' is none of {}", where, answer, join_names(answers));
  }
  return found - answers.begin();
}

void render_choices(const Task& task, const nlohmann::json& row, const std::string& where, Item& item) {
  const std::vector<std::string> contexts = render_each(task.context, task.clean, row, where);
  item.choices = render_each(task.choices, task.clean, row, where);
  const std::size_t count = std::max(contexts.size(), item.choices.size());
  if (count < 2) user_error("{}: this row has {} choices, must have two or more", where, count);
  if (contexts.size() != 1 && item.choices.size() != 1) {
    user_error("{}: this row has {} contexts and {} choices: one of the two must be single", where, contexts.size(),
               item.choices.size());
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::string& context = contexts.size() == 1 ? contexts[0] : contexts[i];
    item.pairs.push_back({context, task.delimiter + (item.choices.size() == 1 ? item.choices[0] : item.choices[i])});
  }
  // Of several contexts, the contexts are what is chosen among.
  if (contexts.size() > 1) item.choices = contexts;
  item.gold = gold_of(task, count, row, where);
}

Item render_item(const Task& task, nlohmann::json row, const std::string& where) {
  Item item;
  item.document = row.dump();
  replace_values(task, row, where);
  switch (task.kind) {
    case TaskKind::Choices: render_choices(task, row, where, item); break;
    case TaskKind::Continuation:
      item.pairs.push_back({render(task.context[0], row, where), task.delimiter + render(*task.text, row, where)});
      break;
    case TaskKind::Rolling: {
      item.pairs.push_back({"", render(*task.text, row, where)});
      const std::string counted = render(*task.counted, row, where);
      item.words = count_words(counted);
      item.bytes = static_cast<std::int64_t>(counted.size());
      break;
    }
  }
  return item;
}

}  // namespace

fs::path find_task_data(const fs::path& folder, const Task& task) {
  for (const char* extension : {"", ".gz", ".zst"}) {
    fs::path file = folder / (task.data + extension);
    std::error_code ignored;
    if (fs::exists(file, ignored)) return file;
  }
  user_error("the task '{}' reads '{}' (or the same with .gz or .zst), which is not there: name the folder with --data",
             task.name, (folder / task.data).string());
}

Items read_items(const Task& task, const fs::path& file, std::int64_t limit) {
  LineReader lines(file.string(), kMostRowBytes, "rows are one JSON object a line");
  Items all;
  for (std::string line; lines.next(line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (limit == 0 || all.rows < limit) {
      nlohmann::json row = parse_json(line, lines.where());
      if (!row.is_object()) user_error("{}: this line is not a JSON object", lines.where());
      all.items.push_back(render_item(task, std::move(row), lines.where()));
      all.items.back().row = all.rows;
    }
    ++all.rows;
  }
  if (all.rows == 0) user_error("'{}' holds no rows", file.string());
  return all;
}

Items read_text_items(const Task& task, const std::vector<std::string>& inputs, std::int64_t limit) {
  TextReader reader(inputs, {});
  Items all;
  for (std::string document; reader.next(document); ++all.rows) {
    if (limit != 0 && all.rows >= limit) continue;
    all.items.push_back(render_item(task, {{"text", document}}, inputs[0]));
    all.items.back().row = all.rows;
  }
  if (all.rows == 0) user_error("'{}' holds no text", join_names(inputs));
  return all;
}

}  // namespace nibble
