#include <algorithm>
#include <nlohmann/json.hpp>

#include "nibble/cli/model_options.h"
#include "nibble/cli/settings.h"
#include "nibble/eval/bootstrap.h"
#include "nibble/eval/results.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/format.h"
#include "nibble/io/json.h"
#include "nibble/io/progress.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

// Tokens a pass: enough rows for efficient products, small beside the weights in memory.
std::int64_t default_batch(Device device) { return device == Device::Cpu ? 2048 : 16384; }

class EvalCommand final : public Command {
 public:
  std::string name() const override { return "eval"; }
  std::string summary() const override { return "score a model on zero-shot tasks and texts"; }
  std::string examples() const override {
    return "  nibble eval --model runs/mine --tasks arc_easy,hellaswag,wikitext --data data/eval\n"
           "  nibble eval --model smollm2-135m --tasks all --data data/eval --recipe nvfp4 --out eval-nvfp4\n"
           "  nibble eval --model runs/mine --text book.txt --tasks ./my-task.toml --limit 100 --samples --out out";
  }
  void declare(Arguments& a) override {
    model_options_.declare(a);
    model_options_.declare_bos(a);
    a.list("--tasks", tasks_, "tasks by name or file, or 'all' of tasks/");
    a.texts("--text", texts_, "text files whose perplexity is measured, all as one task 'text'");
    a.path("--data", data_, "folder of the tasks' data files");
    a.integer("--limit", limit_, "only the first N rows of each task; 0: all");
    a.text("--recipe", recipe_, "arithmetic of the linear layers, by recipe name or file; empty: all in float32");
    a.text("--prefix", prefix_,
           "token before texts without a context: eos, bos or auto (bos where a model that nibble did not train has "
           "one)");
    a.integer("--batch", batch_, "tokens a pass, about; 0: by device");
    a.path("--out", out_, "folder for results.json and the log that a stopped run goes on from; empty: no files");
    a.flag("--samples", samples_, "write each item's prompts and log-likelihoods to OUT/samples_TASK.jsonl");
  }
  int run() override {
    check_options();
    const Device device = model_options_.device();
    const StoredModel stored = model_options_.open();
    const Tokenizer tokenizer = model_options_.tokenizer(stored);
    const RequestEncoder::Options reading{.prefix = prefix_token(stored, tokenizer),
                                          .add_bos = model_options_.bos(stored, tokenizer),
                                          .max_length = stored.config().seq};
    std::vector<EvalTask> tasks = load_tasks();
    std::optional<Recipe> recipe;
    if (!recipe_.empty()) recipe = load_recipe(find_recipe(recipe_));
    const std::unique_ptr<Llama> model = stored.load(recipe, device);

    const RequestEncoder encoder(tokenizer, reading);
    EvalOptions options;
    options.batch = batch_ > 0 ? batch_ : default_batch(device);
    options.out = out_;
    if (!out_.empty()) {
      options.identity = fmt::format("{}\n{}\n{}\n{}", stored.identity(), recipe ? recipe->text : "",
                                     hex64(tokenizer.hash()), device_name(device));
    }
    LlamaLikelihood likelihood(*model);
    const std::optional<std::vector<TaskResult>> results = evaluate(std::move(tasks), encoder, likelihood, options);
    if (!results) return kStopped;
    fmt::print("{}", results_table(*results));
    if (!out_.empty()) write_files(*results, about(stored, recipe, tokenizer, reading, device, options.batch));
    return 0;
  }

 private:
  void check_options() const {
    if (limit_ < 0) user_error("--limit is {}, must not be negative", limit_);
    if (batch_ < 0) user_error("--batch is {}, must not be negative", batch_);
    if (prefix_ != "eos" && prefix_ != "bos" && prefix_ != "auto") {
      user_error("--prefix is '{}', must be eos, bos or auto", prefix_);
    }
    if (samples_ && out_.empty()) user_error("--samples writes into a folder: name it with --out");
    if (tasks_.empty() && texts_.empty()) {
      user_error("name what to evaluate: --tasks, among {}, or --text", join_names(known_tasks()));
    }
  }

  std::int32_t prefix_token(const StoredModel& stored, const Tokenizer& tokenizer) const {
    const bool has_bos = tokenizer.bos_id() >= 0;
    if (prefix_ == "bos" && !has_bos) user_error("the tokenizer has no <s>, which --prefix bos needs");
    // Documents that nibble trains on have the end of a text before them; the harness takes what begins one.
    const bool bos = prefix_ == "bos" || (prefix_ == "auto" && has_bos && !stored.is_checkpoint());
    return bos ? tokenizer.bos_id() : tokenizer.eos_id();
  }

  std::vector<EvalTask> load_tasks() const {
    std::vector<std::string> names = tasks_;
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
      Items items = read_items(task, find_task_data(data_, task), limit_);
      add({std::move(task), std::move(items)});
    }
    if (!texts_.empty()) {
      Task task = text_task("text");
      Items items = read_text_items(task, texts_, limit_);
      add({std::move(task), std::move(items)});
    }
    return tasks;
  }

  /// Nothing where a signal stopped it.
  static std::optional<std::vector<TaskResult>> evaluate(std::vector<EvalTask> tasks, const RequestEncoder& encoder,
                                                         LogLikelihood& model, const EvalOptions& options) {
    std::unique_ptr<Progress> progress;
    const std::atomic<bool>& stop = stop_on_signals();
    const std::size_t count = tasks.size();
    std::vector<TaskResult> results =
        evaluate_tasks(std::move(tasks), encoder, model, options, stop, [&](const EvalProgress& p) {
          if (!progress) progress = std::make_unique<Progress>("eval", p.total, p.resumed);
          progress->update(p.done, "", p.task);
        });
    if (results.size() < count) return std::nullopt;
    if (progress) progress->finish();
    return results;
  }

  nlohmann::json about(const StoredModel& stored, const std::optional<Recipe>& recipe, const Tokenizer& tokenizer,
                       const RequestEncoder::Options& reading, Device device, std::int64_t batch) const {
    return {{"model", "nibble"},
            {"model_args",
             {{"pretrained", stored.path().string()},
              {"name", stored.config().name},
              {"step", stored.step()},
              {"recipe", recipe ? recipe->name : "float32"},
              {"max_length", reading.max_length},
              {"prefix_token_id", reading.prefix},
              {"prefix", tokenizer.piece(reading.prefix)},
              {"add_bos_token", reading.add_bos}}},
            {"model_num_parameters", stored.config().parameters()},
            {"device", device_name(device)},
            {"batch_size", batch},
            {"limit", limit_ == 0 ? nlohmann::json() : nlohmann::json(limit_)},
            {"bootstrap_iters", kBootstrapIterations}};
  }

  void write_files(const std::vector<TaskResult>& results, const nlohmann::json& config) const {
    write_json_atomic(out_ / "results.json", results_json(results, config));
    for (const TaskResult& result : results) {
      if (samples_) {
        write_file_atomic(out_ / fmt::format("samples_{}.jsonl", result.task.name), samples_jsonl(result));
      }
    }
    fmt::print("\nwrote {}{}\n", (out_ / "results.json").string(), samples_ ? " and samples beside it" : "");
  }

  ModelOptions model_options_;
  fs::path out_;
  fs::path data_ = "data/eval";
  std::vector<std::string> tasks_, texts_;
  std::string recipe_;
  std::string prefix_ = "auto";
  std::int64_t limit_ = 0;
  std::int64_t batch_ = 0;
  bool samples_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace nibble
