#include "nibble/eval/task.h"

#include <algorithm>

#include "nibble/io/config_table.h"
#include "nibble/io/data_file.h"
#include "nibble/io/file.h"

namespace nibble {

namespace {

constexpr const char* kFolder = "tasks";

struct MetricInfo {
  Metric metric;
  const char* name;
  bool higher_is_better;
  std::vector<TaskKind> kinds;
};

const std::vector<MetricInfo>& metric_table() {
  static const std::vector<MetricInfo> table = {
      {Metric::Acc, "acc", true, {TaskKind::Choices, TaskKind::Continuation}},
      {Metric::AccNorm, "acc_norm", true, {TaskKind::Choices}},
      {Metric::AccBytes, "acc_bytes", true, {TaskKind::Choices}},
      {Metric::Perplexity, "perplexity", false, {TaskKind::Continuation}},
      {Metric::WordPerplexity, "word_perplexity", false, {TaskKind::Rolling}},
      {Metric::BytePerplexity, "byte_perplexity", false, {TaskKind::Rolling}},
      {Metric::BitsPerByte, "bits_per_byte", false, {TaskKind::Rolling}},
  };
  return table;
}

const MetricInfo& info_of(Metric metric) {
  return *std::find_if(metric_table().begin(), metric_table().end(),
                       [&](const MetricInfo& info) { return info.metric == metric; });
}

std::vector<Template> templates(const ConfigTable& t, const char* key, const std::string& where) {
  std::vector<Template> all;
  for (const std::string& text : t.texts(key)) all.emplace_back(text, where + key);
  return all;
}

std::vector<Metric> read_metrics(const ConfigTable& t, TaskKind kind) {
  std::string allowed;
  for (const MetricInfo& info : metric_table()) {
    if (std::count(info.kinds.begin(), info.kinds.end(), kind) > 0) {
      allowed += (allowed.empty() ? "" : ", ") + std::string(info.name);
    }
  }
  std::vector<Metric> metrics;
  for (const std::string& name : t.texts("metrics")) {
    const auto found = std::find_if(metric_table().begin(), metric_table().end(), [&](const MetricInfo& info) {
      return info.name == name && std::count(info.kinds.begin(), info.kinds.end(), kind) > 0;
    });
    if (found == metric_table().end()) {
      t.fail("metrics", fmt::format("'{}' is not one of {}, which this kind of task has", name, allowed));
    }
    metrics.push_back(found->metric);
  }
  if (metrics.empty()) t.fail("metrics", fmt::format("must name at least one of {}", allowed));
  return metrics;
}

void read_choices(const ConfigTable& t, const std::string& where, Task& task) {
  task.context = templates(t, "context", where);
  task.choices = templates(t, "choices", where);
  if (task.context.empty()) t.fail("context", "is missing");
  if (task.choices.empty()) t.fail("choices", "is missing");
  if (task.context.size() > 1 && task.choices.size() > 1) {
    t.fail("context", "there are several contexts and several choices: one of the two must be single");
  }
  task.gold.emplace(t.text("gold"), where + "gold");
  task.gold_among = templates(t, "gold_among", where);
  for (const std::string& name : t.texts("clean")) task.clean.push_back(text_rule(name, where + "clean"));
}

Task read_task(const ConfigTable& t, const std::string& name, const std::string& origin) {
  const std::string where = origin + ": key ";
  Task task;
  task.name = name;
  task.version = t.number("version", 0, 0, 1e6);
  task.data = t.text("data", name + ".jsonl");
  task.delimiter = t.text("delimiter", task.delimiter);
  task.kind = t.choice(
      "kind", TaskKind::Choices,
      {{"choices", TaskKind::Choices}, {"continuation", TaskKind::Continuation}, {"rolling", TaskKind::Rolling}});
  switch (task.kind) {
    case TaskKind::Choices: read_choices(t, where, task); break;
    case TaskKind::Continuation:
      task.context.emplace_back(t.text("context"), where + "context");
      task.text.emplace(t.text("continuation"), where + "continuation");
      break;
    case TaskKind::Rolling: {
      const std::string text = t.text("text");
      task.text.emplace(text, where + "text");
      task.counted.emplace(t.text("counted", text), where + "counted");
      break;
    }
  }
  const ConfigTable replace = t.table("replace");
  for (const std::string& field : replace.keys()) {
    const ConfigTable values = replace.table(field);
    for (const std::string& value : values.keys()) task.replace[field][value] = values.text(value);
  }
  task.metrics = read_metrics(t, task.kind);
  t.finish();
  return task;
}

}  // namespace

const char* metric_name(Metric metric) { return info_of(metric).name; }
bool higher_is_better(Metric metric) { return info_of(metric).higher_is_better; }

Task parse_task(const std::string& text, const std::string& name, const std::string& origin) {
  Task task = read_task(ConfigTable::parse_text(text, origin), name, origin);
  task.source = text;
  return task;
}

Task load_task(const std::filesystem::path& path) {
  return parse_task(read_file(path), path.stem().string(), path.string());
}

std::filesystem::path find_task(const std::string& name_or_path) {
  return find_data_file(kFolder, name_or_path, "task");
}

std::vector<std::string> known_tasks() { return known_data_files(kFolder); }

Task text_task(const std::string& name) {
  return parse_task(
      "kind = \"rolling\"\ntext = \"{{text}}\"\nmetrics = [\"word_perplexity\", \"byte_perplexity\", "
      "\"bits_per_byte\"]\n",
      name, "text task");
}

}  // namespace nibble
