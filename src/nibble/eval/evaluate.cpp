#include "nibble/eval/evaluate.h"

#include <cmath>
#include <optional>

#include "nibble/eval/score_log.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// A task made ready: its requests, the pair that each belongs to, and the passes that score them.
struct PlannedTask {
  struct Owner {
    std::size_t item = 0;
    std::size_t pair = 0;
  };
  std::vector<Request> requests;
  std::vector<Owner> owners;
  std::vector<std::vector<std::size_t>> passes;
  std::optional<ScoreLog> log;
};

/// Whether the log has the scores of the pass.
bool is_done(const PlannedTask& plan, std::size_t pass) {
  const std::vector<Score>* known = plan.log->find(pass);
  return known != nullptr && known->size() == plan.passes[pass].size();
}

std::int64_t tokens_of(const PlannedTask& plan, const std::vector<std::size_t>& pass) {
  std::int64_t tokens = 0;
  for (const std::size_t request : pass) tokens += static_cast<std::int64_t>(plan.requests[request].input.size());
  return tokens;
}

std::string fingerprint_of(const PlannedTask& plan, const EvalOptions& options) {
  Xxh3Stream stream;
  const auto add = [&](std::span<const std::int32_t> ids) {
    const auto count = static_cast<std::uint64_t>(ids.size());
    stream.update(std::as_bytes(std::span(&count, 1)));
    stream.update(std::as_bytes(ids));
  };
  stream.update(std::as_bytes(std::span(options.identity)));
  for (const auto& pass : plan.passes) {
    for (const std::size_t request : pass) {
      add(plan.requests[request].input);
      add(plan.requests[request].targets);
    }
    add({});
  }
  return hex64(stream.digest());
}

PlannedTask plan_task(const EvalTask& input, const RequestEncoder& encoder, const EvalOptions& options) {
  PlannedTask plan;
  std::vector<std::size_t> groups;
  for (std::size_t i = 0; i < input.items.items.size(); ++i) {
    const Item& item = input.items.items[i];
    for (std::size_t p = 0; p < item.pairs.size(); ++p) {
      const Item::Pair& pair = item.pairs[p];
      try {
        if (input.task.kind != TaskKind::Rolling) {
          plan.requests.push_back(encoder.pair(pair.context, pair.continuation));
          plan.owners.push_back({i, p});
          groups.push_back(i);
          continue;
        }
        for (Request& window : encoder.rolling(pair.continuation)) {
          plan.requests.push_back(std::move(window));
          plan.owners.push_back({i, p});
          groups.push_back(groups.size());  // windows begin with nothing in common
        }
      } catch (const UserError& e) {
        user_error("task '{}', row {}: {}", input.task.name, item.row + 1, e.what());
      }
    }
  }
  plan.passes = plan_passes(plan.requests, groups, options.batch);
  if (options.out.empty()) {
    plan.log.emplace();
  } else {
    plan.log.emplace(options.out / fmt::format("scores_{}.jsonl", input.task.name), fingerprint_of(plan, options),
                     static_cast<std::int64_t>(plan.passes.size()));
  }
  return plan;
}

std::vector<Score> score_pass(const EvalTask& task, const PlannedTask& plan, std::size_t pass, LogLikelihood& model) {
  std::vector<Request> requests;
  for (const std::size_t request : plan.passes[pass]) requests.push_back(plan.requests[request]);
  std::vector<Score> scores = model.score(requests, task.task.kind != TaskKind::Rolling);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (std::isfinite(scores[i].log_likelihood)) continue;
    user_error("task '{}', row {}: the log-likelihood is {}: the model or the recipe gives numbers that are not finite",
               task.task.name, task.items.items[plan.owners[plan.passes[pass][i]].item].row + 1,
               scores[i].log_likelihood);
  }
  return scores;
}

TaskResult result_of(EvalTask input, const PlannedTask& plan) {
  TaskResult result{std::move(input.task), std::move(input.items), {}, {}};
  const bool rolling = result.task.kind == TaskKind::Rolling;
  for (const Item& item : result.items.items) result.scores.emplace_back(item.pairs.size(), Score{0, !rolling});
  for (std::size_t pass = 0; pass < plan.passes.size(); ++pass) {
    const std::vector<Score>& scores = *plan.log->find(pass);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const PlannedTask::Owner& owner = plan.owners[plan.passes[pass][i]];
      Score& sum = result.scores[owner.item][owner.pair];
      sum.log_likelihood += scores[i].log_likelihood;
      sum.greedy = sum.greedy && scores[i].greedy;
    }
  }
  for (const Metric metric : result.task.metrics) {
    result.figures.push_back(figure_of(metric, result.items.items, result.scores));
  }
  return result;
}

}  // namespace

std::vector<TaskResult> evaluate_tasks(std::vector<EvalTask> tasks, const RequestEncoder& encoder, LogLikelihood& model,
                                       const EvalOptions& options, const std::atomic<bool>& stop,
                                       const std::function<void(const EvalProgress&)>& on_progress) {
  if (!options.out.empty()) make_directories(options.out);
  std::vector<PlannedTask> plans;
  EvalProgress progress;
  for (const EvalTask& task : tasks) {
    plans.push_back(plan_task(task, encoder, options));
    const PlannedTask& plan = plans.back();
    for (std::size_t pass = 0; pass < plan.passes.size(); ++pass) {
      const std::int64_t tokens = tokens_of(plan, plan.passes[pass]);
      progress.total += tokens;
      if (is_done(plan, pass)) progress.resumed += tokens;
    }
  }
  progress.done = progress.resumed;
  std::vector<TaskResult> results;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    PlannedTask& plan = plans[t];
    progress.task = tasks[t].task.name;
    for (std::size_t pass = 0; pass < plan.passes.size(); ++pass) {
      if (is_done(plan, pass)) continue;
      if (stop) return {};
      plan.log->append(pass, score_pass(tasks[t], plan, pass, model));
      progress.done += tokens_of(plan, plan.passes[pass]);
      if (on_progress) on_progress(progress);
    }
    results.push_back(result_of(std::move(tasks[t]), plan));
  }
  return results;
}

}  // namespace nibble
