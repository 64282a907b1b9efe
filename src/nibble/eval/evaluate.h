// Evaluation: tasks and a model to figures.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nibble/eval/metrics.h"

namespace nibble {

struct EvalTask {
  Task task;
  Items items;
};

struct EvalOptions {
  std::int64_t batch = 2048;  ///< tokens a pass, about
  /// Folder for the logs of scores, which a later call goes on from; empty = none.
  std::filesystem::path out{};
  std::string identity{};  ///< of the model, its arithmetic and its tokenizer: goes into the fingerprint of the logs
};

struct TaskResult {
  Task task;
  Items items;
  std::vector<std::vector<Score>> scores;  ///< of each item, one a pair; of a text the sum over its windows
  std::vector<Figure> figures;             ///< in the order of the task's metrics
};

/// In input tokens of requests, shared beginnings counted again each time.
struct EvalProgress {
  std::int64_t done = 0;
  std::int64_t resumed = 0;  ///< of these, by an earlier call
  std::int64_t total = 0;
  std::string task;
};

/// Scores all items of all tasks. Nothing when `stop` became true before the end; what was scored by then is in the
/// logs. UserError where an item cannot be scored, or a log-likelihood is not finite.
std::vector<TaskResult> evaluate_tasks(std::vector<EvalTask> tasks, const RequestEncoder& encoder, LogLikelihood& model,
                                       const EvalOptions& options, const std::atomic<bool>& stop,
                                       const std::function<void(const EvalProgress&)>& on_progress = {});

}  // namespace nibble
