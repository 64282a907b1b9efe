#include "nibble/eval/model_evaluation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nibble/eval/bootstrap.h"
#include "nibble/eval/results.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/format.h"
#include "nibble/io/json.h"

namespace nibble {

namespace {

// Tokens a pass: enough rows for efficient products, small beside the weights in memory.
std::int64_t default_batch(Device device) { return device == Device::Cpu ? 2048 : 16384; }

void check(const ModelEvaluation& what) {
  if (what.limit < 0) user_error("--limit is {}, must not be negative", what.limit);
  if (what.batch < 0) user_error("--batch is {}, must not be negative", what.batch);
  if (what.samples && what.out.empty()) user_error("--samples writes into a folder: name it with --out");
  if (what.tasks.empty() && what.texts.empty()) {
    user_error("name what to evaluate: --tasks, among {}, or --text", join_names(known_tasks()));
  }
}

std::int32_t prefix_token(TextPrefix prefix, const StoredModel& model, const Tokenizer& tokenizer) {
  const bool has_bos = tokenizer.bos_id() >= 0;
  if (prefix == TextPrefix::Bos && !has_bos) user_error("the tokenizer has no <s>, which --prefix bos needs");
  // Documents that nibble trains on have the end of a text before them; the harness takes what begins one.
  const bool bos = prefix == TextPrefix::Bos || (prefix == TextPrefix::Auto && has_bos && !model.is_checkpoint());
  return bos ? tokenizer.bos_id() : tokenizer.eos_id();
}

std::vector<EvalTask> load_tasks(const ModelEvaluation& what) {
  std::vector<std::string> names = what.tasks;
  if (names == std::vector<std::string>{"all"}) names = known_tasks();
  std::vector<EvalTask> tasks;
  const auto add = [&](EvalTask task) {
    const std::string& added = task.task.name;
    if (std::any_of(tasks.begin(), tasks.end(), [&](const EvalTask& other) { return other.task.name == added; })) {
      user_error("there are two tasks '{}': name each once", added);
    }
    tasks.push_back(std::move(task));
  };
  for (const std::string& name : names) {
    Task task = load_task(find_task(name));
    Items items = read_items(task, find_task_data(what.data, task), what.limit);
    add({std::move(task), std::move(items)});
  }
  if (!what.texts.empty()) {
    Task task = text_task("text");
    Items items = read_text_items(task, what.texts, what.limit);
    add({std::move(task), std::move(items)});
  }
  return tasks;
}

nlohmann::json about(const ModelEvaluation& what, const StoredModel& model, const std::optional<Recipe>& recipe,
                     const Tokenizer& tokenizer, const RequestEncoder::Options& reading, std::int64_t batch) {
  return {{"model", "nibble"},
          {"model_args",
           {{"pretrained", model.path().string()},
            {"name", model.config().name},
            {"step", model.step()},
            {"recipe", recipe ? recipe->name : "float32"},
            {"max_length", reading.max_length},
            {"prefix_token_id", reading.prefix},
            {"prefix", tokenizer.piece(reading.prefix)},
            {"add_bos_token", reading.add_bos}}},
          {"model_num_parameters", model.config().parameters()},
          {"device", device_name(what.device)},
          {"batch_size", batch},
          {"limit", what.limit == 0 ? nlohmann::json() : nlohmann::json(what.limit)},
          {"bootstrap_iters", kBootstrapIterations}};
}

void write_files(const ModelEvaluation& what, const std::vector<TaskResult>& results, const nlohmann::json& json) {
  write_json_atomic(what.out / "results.json", json);
  if (!what.samples) return;
  for (const TaskResult& result : results) {
    write_file_atomic(what.out / fmt::format("samples_{}.jsonl", result.task.name), samples_jsonl(result));
  }
}

}  // namespace

TextPrefix text_prefix_of(const std::string& name) {
  if (name == "eos") return TextPrefix::Eos;
  if (name == "bos") return TextPrefix::Bos;
  if (name == "auto") return TextPrefix::Auto;
  user_error("--prefix is '{}', must be eos, bos or auto", name);
}

std::optional<ModelResults> evaluate_model(const StoredModel& model, const Tokenizer& tokenizer,
                                           const ModelEvaluation& what, const std::atomic<bool>& stop,
                                           const std::function<void(const EvalProgress&)>& on_progress) {
  check(what);
  const RequestEncoder::Options reading{
      .prefix = prefix_token(what.prefix, model, tokenizer), .add_bos = what.add_bos, .max_length = model.config().seq};
  std::vector<EvalTask> tasks = load_tasks(what);
  std::optional<Recipe> recipe;
  if (!what.recipe.empty()) recipe = load_recipe(find_recipe(what.recipe));
  const std::unique_ptr<Llama> llama = model.load(recipe, what.device);

  EvalOptions options;
  options.batch = what.batch > 0 ? what.batch : default_batch(what.device);
  options.out = what.out;
  if (!what.out.empty()) {
    options.identity = fmt::format("{}\n{}\n{}\n{}", model.identity(), recipe ? recipe->text : "",
                                   hex64(tokenizer.hash()), device_name(what.device));
  }
  const RequestEncoder encoder(tokenizer, reading);
  LlamaLikelihood likelihood(*llama);
  const std::size_t count = tasks.size();
  ModelResults results;
  results.tasks = evaluate_tasks(std::move(tasks), encoder, likelihood, options, stop, on_progress);
  if (results.tasks.size() < count) return std::nullopt;
  const nlohmann::json json =
      results_json(results.tasks, about(what, model, recipe, tokenizer, reading, options.batch));
  results.json = json.dump();
  if (!what.out.empty()) write_files(what, results.tasks, json);
  return results;
}

}  // namespace nibble
