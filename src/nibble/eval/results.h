// Results of an evaluation on the terminal and in files, the latter in lm-evaluation-harness's layout.
//
//   OUT/results.json          results, group_subtasks, configs, versions, n-shot, higher_is_better, n-samples, config
//   OUT/samples_TASK.jsonl    an item a line: doc_id, doc, target, arguments, resps, filtered_resps, and its metrics
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "nibble/eval/evaluate.h"

namespace nibble {

/// A line a figure: task, version, items, metric, whether higher or lower is better, value, standard error.
std::string results_table(std::span<const TaskResult> results);

/// results.json; `config` says what was evaluated and how.
nlohmann::json results_json(std::span<const TaskResult> results, const nlohmann::json& config);

/// The lines of samples_TASK.jsonl.
std::string samples_jsonl(const TaskResult& result);

}  // namespace nibble
