#include "nibble/eval/results.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "nibble/io/format.h"
#include "nibble/tensor/error.h"

namespace nibble {

using nlohmann::json;

namespace {

/// The harness names figures "METRIC,FILTER"; a task without filters has the filter "none".
std::string key_of(Metric metric, const char* suffix = "") {
  return fmt::format("{}{},none", metric_name(metric), suffix);
}

const char* output_type(TaskKind kind) {
  switch (kind) {
    case TaskKind::Choices: return "multiple_choice";
    case TaskKind::Continuation: return "loglikelihood";
    case TaskKind::Rolling: return "loglikelihood_rolling";
  }
  return "";
}

json standard_error_json(const Figure& figure) {
  return std::isnan(figure.standard_error) ? json("N/A") : json(figure.standard_error);
}

json sample_json(const TaskResult& result, std::size_t index) {
  const Item& item = result.items.items[index];
  const std::vector<Score>& scores = result.scores[index];
  const bool rolling = result.task.kind == TaskKind::Rolling;
  json arguments = json::object();
  json responses = json::array();
  for (std::size_t i = 0; i < item.pairs.size(); ++i) {
    const Item::Pair& pair = item.pairs[i];
    json& argument = arguments[fmt::format("gen_args_{}", i)];
    argument =
        rolling ? json({{"arg_0", pair.continuation}}) : json({{"arg_0", pair.context}, {"arg_1", pair.continuation}});
    const json response =
        rolling ? json(scores[i].log_likelihood) : json::array({scores[i].log_likelihood, scores[i].greedy});
    responses.push_back(response);
  }
  json sample = {{"doc_id", item.row},
                 {"doc", json::parse(item.document)},
                 {"arguments", arguments},
                 {"filter", "none"},
                 {"filtered_resps", responses}};
  sample["target"] = result.task.kind == TaskKind::Choices ? json(item.gold) : json(item.pairs[0].continuation);
  sample["resps"] = json::array();
  for (const json& response : responses) sample["resps"].push_back(json::array({response}));
  sample["metrics"] = json::array();
  for (const Metric metric : result.task.metrics) {
    sample["metrics"].push_back(metric_name(metric));
    const double value = item_value(metric, item, scores);
    const bool by_words = metric == Metric::WordPerplexity;
    sample[metric_name(metric)] = rolling ? json::array({value, by_words ? item.words : item.bytes}) : json(value);
  }
  return sample;
}

}  // namespace

std::string results_table(std::span<const TaskResult> results) {
  std::size_t width = 4;
  for (const TaskResult& result : results) width = std::max(width, display_width(result.task.name));
  std::string text = fmt::format("{:<{}}  {:>7}  {:>6}  {:<15}    {:>10}    {:>8}\n", "task", width, "version", "items",
                                 "metric", "value", "stderr");
  for (const TaskResult& result : results) {
    bool first = true;
    for (const Figure& figure : result.figures) {
      const std::string error = std::isnan(figure.standard_error) ? "-" : fmt::format("{:.4f}", figure.standard_error);
      text += fmt::format("{:<{}}  {:>7}  {:>6}  {:<15} {}  {:>10.4f}  ± {:>8}\n", first ? result.task.name : "", width,
                          first ? fmt::format("{:g}", result.task.version) : "",
                          first ? std::to_string(result.items.items.size()) : "", metric_name(figure.metric),
                          higher_is_better(figure.metric) ? "↑" : "↓", figure.value, error);
      first = false;
    }
  }
  return text;
}

json results_json(std::span<const TaskResult> results, const json& config) {
  json all = {{"results", json::object()},  {"group_subtasks", json::object()}, {"configs", json::object()},
              {"versions", json::object()}, {"n-shot", json::object()},         {"higher_is_better", json::object()},
              {"n-samples", json::object()}};
  for (const TaskResult& result : results) {
    const std::string& name = result.task.name;
    const auto count = static_cast<std::int64_t>(result.items.items.size());
    json figures = {{"alias", name}, {"sample_len", count}};
    json metrics = json::array();
    for (const Figure& figure : result.figures) {
      figures[key_of(figure.metric)] = figure.value;
      figures[key_of(figure.metric, "_stderr")] = standard_error_json(figure);
      all["higher_is_better"][name][metric_name(figure.metric)] = higher_is_better(figure.metric);
      metrics.push_back(
          {{"metric", metric_name(figure.metric)}, {"higher_is_better", higher_is_better(figure.metric)}});
    }
    all["results"][name] = figures;
    all["group_subtasks"][name] = json::array();
    all["configs"][name] = {{"task", name},
                            {"output_type", output_type(result.task.kind)},
                            {"num_fewshot", 0},
                            {"target_delimiter", result.task.delimiter},
                            {"metric_list", metrics},
                            {"metadata", {{"version", result.task.version}}},
                            {"task_file", result.task.source}};
    all["versions"][name] = result.task.version;
    all["n-shot"][name] = 0;
    all["n-samples"][name] = {{"original", result.items.rows}, {"effective", count}};
  }
  all["config"] = config;
  return all;
}

std::string samples_jsonl(const TaskResult& result) {
  std::string text;
  for (std::size_t i = 0; i < result.items.items.size(); ++i) {
    // Bytes that are no UTF-8 must not stop what has been computed from being written.
    text += sample_json(result, i).dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  }
  return text;
}

}  // namespace nibble
