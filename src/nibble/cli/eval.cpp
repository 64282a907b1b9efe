#include "nibble/cli/model_options.h"
#include "nibble/cli/settings.h"
#include "nibble/eval/model_evaluation.h"
#include "nibble/eval/results.h"
#include "nibble/io/progress.h"

namespace nibble {

namespace {

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
    a.list("--tasks", what_.tasks, "tasks by name or file, or 'all' of tasks/");
    a.texts("--text", what_.texts, "text files whose perplexity is measured, all as one task 'text'");
    a.path("--data", what_.data, "folder of the tasks' data files");
    a.integer("--limit", what_.limit, "only the first N rows of each task; 0: all");
    a.text("--recipe", what_.recipe, "arithmetic of the linear layers, by recipe name or file; empty: all in float32");
    a.text("--prefix", prefix_,
           "token before texts without a context: eos, bos or auto (bos where a model that nibble did not train has "
           "one)");
    a.integer("--batch", what_.batch, "tokens a pass, about; 0: by device");
    a.path("--out", what_.out, "folder for results.json and the log that a stopped run goes on from; empty: no files");
    a.flag("--samples", what_.samples, "write each item's prompts and log-likelihoods to OUT/samples_TASK.jsonl");
  }
  int run() override {
    what_.prefix = text_prefix_of(prefix_);
    what_.device = model_options_.device();
    const StoredModel model = model_options_.open();
    const Tokenizer tokenizer = model_options_.tokenizer(model);
    what_.add_bos = model_options_.bos(model, tokenizer);
    std::unique_ptr<Progress> progress;
    const std::optional<ModelResults> results =
        evaluate_model(model, tokenizer, what_, stop_on_signals(), [&](const EvalProgress& p) {
          if (!progress) progress = std::make_unique<Progress>("eval", p.total, p.resumed);
          progress->update(p.done, "", p.task);
        });
    if (!results) return kStopped;
    if (progress) progress->finish();
    fmt::print("{}", results_table(results->tasks));
    if (!what_.out.empty()) {
      fmt::print("\nwrote {}{}\n", (what_.out / "results.json").string(),
                 what_.samples ? " and samples beside it" : "");
    }
    return 0;
  }

 private:
  ModelOptions model_options_;
  ModelEvaluation what_;
  std::string prefix_ = "auto";
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace nibble
