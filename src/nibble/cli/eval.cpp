#include <algorithm>
#include <nlohmann/json.hpp>

#include "nibble/cli/arguments.h"
#include "nibble/cli/settings.h"
#include "nibble/data/dataset.h"
#include "nibble/eval/bootstrap.h"
#include "nibble/eval/results.h"
#include "nibble/inspect/inspection.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"
#include "nibble/io/format.h"
#include "nibble/io/json.h"
#include "nibble/io/progress.h"
#include "nibble/model/hugging_face.h"
#include "nibble/train/checkpoint.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

// Tokens a pass: enough rows for efficient products, small beside the weights in memory.
std::int64_t default_batch(Device device) { return device == Device::Cpu ? 2048 : 16384; }

class EvalCommand final : public Command {
 public:
  std::string name() const override { return "eval"; }
  std::string summary() const override { return "score a checkpoint on zero-shot tasks and texts"; }
  std::string examples() const override {
    return "  nibble eval --checkpoint runs/mine --tasks arc_easy,hellaswag,wikitext --data data/eval\n"
           "  nibble eval --checkpoint runs/mine --tasks all --data data/eval --recipe nvfp4 --out "
           "runs/mine/eval-nvfp4\n"
           "  nibble eval --checkpoint runs/mine --text book.txt --tasks ./my-task.toml --limit 100 --samples --out "
           "out";
  }
  void declare(Arguments& a) override {
    a.path("--checkpoint", checkpoint_, "run folder, or one checkpoint folder of it", true);
    a.list("--tasks", tasks_, "tasks by name or file, or 'all' of tasks/");
    a.texts("--text", texts_, "text files whose perplexity is measured, all as one task 'text'");
    a.path("--data", data_, "folder of the tasks' data files");
    a.integer("--limit", limit_, "only the first N rows of each task; 0: all");
    a.text("--recipe", recipe_, "arithmetic of the linear layers, by recipe name or file; empty: all in float32");
    a.path("--tokenizer", tokenizer_, "SentencePiece model or tokenizer.json; by default the one of the run's data");
    a.text("--prefix", prefix_, "token before texts without a context: eos or bos");
    a.flag("--add-bos", add_bos_, "begin every text with <s>, for a model that was trained so");
    a.text("--device", device_, "where the model computes: cpu, cuda or auto (the GPU where there is one)");
    a.integer("--batch", batch_, "tokens a pass, about; 0: by device");
    a.path("--out", out_, "folder for results.json and the log that a stopped run goes on from; empty: no files");
    a.flag("--samples", samples_, "write each item's prompts and log-likelihoods to OUT/samples_TASK.jsonl");
  }
  int run() override {
    check_options();
    const Device device = device_of(device_);
    const fs::path checkpoint = find_checkpoint(checkpoint_);
    const TrainState state = load_state(checkpoint);
    const TrainConfig config = read_train_config(ConfigTable::parse_text(state.config, checkpoint.string()));
    const Tokenizer tokenizer = load_tokenizer(config);
    std::vector<EvalTask> tasks = load_tasks();

    const bool exact = recipe_.empty();
    const Recipe recipe = exact ? unquantised_recipe(ElementFormat::F32) : load_recipe(find_recipe(recipe_));
    Llama model(config.model, recipe, config.seed, exact ? DType::F32 : DType::BF16, device);
    load_weights(checkpoint, model);
    // Only the recipe that the run trained with has its state in the checkpoint; another one begins as a run does.
    if (recipe.text == state.recipe) load_recipe_state(checkpoint, state, model);
    model.prepare(0, false);

    const RequestEncoder encoder(tokenizer, {.prefix = prefix_ == "bos" ? tokenizer.bos_id() : tokenizer.eos_id(),
                                             .add_bos = add_bos_,
                                             .max_length = config.model.seq});
    EvalOptions options;
    options.batch = batch_ > 0 ? batch_ : default_batch(device);
    options.out = out_;
    options.identity = fmt::format("{}\n{}\n{}\n{}\n{}", read_file(checkpoint / "state.json"), exact ? "" : recipe.text,
                                   hex64(tokenizer.hash()), device_name(device), prefix_);
    LlamaLikelihood likelihood(model);
    const std::optional<std::vector<TaskResult>> results = evaluate(std::move(tasks), encoder, likelihood, options);
    if (!results) return kStopped;
    fmt::print("{}", results_table(*results));
    if (!out_.empty()) write_files(*results, about(checkpoint, config, state, recipe, device, options.batch));
    return 0;
  }

 private:
  void check_options() const {
    if (limit_ < 0) user_error("--limit is {}, must not be negative", limit_);
    if (batch_ < 0) user_error("--batch is {}, must not be negative", batch_);
    if (prefix_ != "eos" && prefix_ != "bos") user_error("--prefix is '{}', must be eos or bos", prefix_);
    if (samples_ && out_.empty()) user_error("--samples writes into a folder: name it with --out");
    if (tasks_.empty() && texts_.empty()) {
      user_error("name what to evaluate: --tasks, among {}, or --text", join_names(known_tasks()));
    }
  }

  Tokenizer load_tokenizer(const TrainConfig& config) const {
    const fs::path path = tokenizer_.empty() ? config.data : tokenizer_;
    if (!fs::exists(path)) {
      user_error("there is no tokenizer at '{}': give the model's with --tokenizer", path.string());
    }
    Tokenizer tokenizer = Tokenizer::load(path);
    if (tokenizer.vocab_size() > config.model.vocab) {
      user_error(
          "the tokenizer '{}' has {} pieces, the checkpoint's model a vocabulary of {}: give the model's own with "
          "--tokenizer",
          path.string(), tokenizer.vocab_size(), config.model.vocab);
    }
    if ((add_bos_ || prefix_ == "bos") && tokenizer.bos_id() < 0) {
      user_error("the tokenizer '{}' has no <s>, which --add-bos and --prefix bos need", path.string());
    }
    return tokenizer;
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

  nlohmann::json about(const fs::path& checkpoint, const TrainConfig& config, const TrainState& state,
                       const Recipe& recipe, Device device, std::int64_t batch) const {
    return {{"model", "nibble"},
            {"model_args",
             {{"checkpoint", checkpoint.string()},
              {"name", config.model.name},
              {"step", state.step},
              {"recipe", recipe_.empty() ? "float32" : recipe.name},
              {"max_length", config.model.seq},
              {"prefix", prefix_},
              {"add_bos_token", add_bos_}}},
            {"model_num_parameters", config.model.parameters()},
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

  fs::path checkpoint_, tokenizer_, out_;
  fs::path data_ = "data/eval";
  std::vector<std::string> tasks_, texts_;
  std::string recipe_;
  std::string prefix_ = "eos";
  std::string device_ = "cpu";
  std::int64_t limit_ = 0;
  std::int64_t batch_ = 0;
  bool add_bos_ = false;
  bool samples_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace nibble
