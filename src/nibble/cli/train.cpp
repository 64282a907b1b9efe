#include "nibble/cli/arguments.h"
#include "nibble/cli/launcher.h"
#include "nibble/cli/settings.h"
#include "nibble/dist/launch.h"
#include "nibble/io/run_log.h"

namespace nibble {

namespace {

class TrainCommand final : public Command {
 public:
  std::string name() const override { return "train"; }
  std::string summary() const override { return "train one model in one recipe"; }
  std::string examples() const override {
    return "  nibble train --config configs/demo.toml --recipe wang2025 --out runs/mine\n"
           "  nibble train --config configs/demo.toml --out runs/mine --resume\n"
           "  nibble train --config configs/demo.toml --set train.micro_batch=1 --ranks 2 --restarts 3 --out runs/two\n"
           "  srun --mpi=pmix nibble train --config large.toml --resume-or-begin --out runs/large\n"
           "  nibble train --config tune.toml --init smollm2-135m --recipe nvfp4 --set model.seq=512 --out runs/tuned\n"
           "  nibble train --config configs/demo.toml --set optimizer.lr=2e-3 --set train.steps=500 --print-config";
  }
  void declare(Arguments& a) override {
    a.path("--config", config_, "training settings (TOML)", true);
    a.text("--recipe", recipe_, "recipe by name or file; overrides the configuration");
    a.path("--out", out_, "folder of the run");
    a.path("--init", init_,
           "begin with a model: a folder of config.json and safetensors, a GGUF file, a run or a checkpoint");
    a.texts("--set", overrides_, "override a setting: table.key=value (repeatable)");
    a.flag("--resume", resume_, "go on from the newest checkpoint in --out");
    a.flag("--resume-or-begin", resume_or_begin_,
           "the same, or begin where there is none: for jobs that are queued again");
    a.integer("--ranks", launcher_.ranks,
              "start this many ranks with mpirun, which share each step (docs/distributed.md)");
    a.integer("--restarts", launcher_.restarts,
              "start again, from the newest checkpoint, when the run dies or a rank is gone");
    a.flag("--deterministic", deterministic_, "the same bits on any number of ranks: train.deterministic=true");
    a.flag("--print-config", print_, "print the whole configuration, defaults included, and exit");
  }
  int run() override {
    if (!init_.empty()) {
      const std::vector<std::string> init = init_overrides(init_);
      overrides_.insert(overrides_.begin(), init.begin(), init.end());
    }
    if (deterministic_) overrides_.emplace_back("train.deterministic=true");
    TrainConfig config = load_train_config(config_, overrides_);
    if (!recipe_.empty()) config.recipe = recipe_;
    const Recipe recipe = load_recipe(find_recipe(config.recipe));
    if (print_) {
      fmt::print("{}", to_toml(config));
      return 0;
    }
    if (out_.empty()) user_error("where should the run go? pass --out DIR");
    if (launcher_.ranks < 1 || launcher_.restarts < 0) {
      user_error("--ranks {} --restarts {}: at least one rank, and no fewer than 0 restarts", launcher_.ranks,
                 launcher_.restarts);
    }
    launcher_.cpu = config.device == Device::Cpu;
    if (launches(launcher_)) {
      return launch(launcher_,
                    arguments(resume_            ? "--resume"
                              : resume_or_begin_ ? "--resume-or-begin"
                                                 : ""),
                    arguments("--resume-or-begin"));
    }
    const Resume resume = resume_ ? Resume::Required : resume_or_begin_ ? Resume::IfPresent : Resume::No;
    std::unique_ptr<Communicator> ranks = world(config.device);
    const bool speaks = ranks->rank() == 0;
    TrainDisplay display(out_.filename().string(), config);
    std::optional<AlarmStop> alarm;
    const bool complete = on_every_rank(*ranks, [&](Communicator& communicator) {
      try {
        return train(communicator, config, recipe, out_, resume, stop_on_signals(), display.callbacks());
      } catch (const AlarmStop& e) {  // every rank has stopped
        alarm = e;
        return false;
      }
    });
    ranks.reset();  // all have come to their end: what follows is rank 0's own
    if (alarm) throw AlarmStop(*alarm);
    if (!speaks) return 0;  // rank 0 has the job's exit code
    if (!complete) {
      fmt::print(stderr, "stopped; everything is saved, go on with --resume\n");
      return kStopped;
    }
    const RunFigures figures = final_figures(load_run(out_));
    fmt::print("{}: {} steps, training loss {:.4f}, validation loss {:.4f}, {:.0f} tokens/s\n", recipe.name,
               figures.steps, figures.train_loss, figures.val_loss, figures.tokens_per_second);
    return 0;
  }

 private:
  std::filesystem::path config_;
  std::string recipe_;
  std::filesystem::path init_;
  std::filesystem::path out_;
  std::vector<std::string> overrides_;
  /// The command line of a rank.
  std::vector<std::string> arguments(const std::string& resume) const {
    std::vector<std::string> all{"train", "--config", config_.string(), "--out", out_.string()};
    if (!recipe_.empty()) all.insert(all.end(), {"--recipe", recipe_});
    for (const std::string& setting : overrides_) all.insert(all.end(), {"--set", setting});  // of --init too
    if (!resume.empty()) all.push_back(resume);
    return all;
  }

  Launcher launcher_;
  bool resume_or_begin_ = false;
  bool resume_ = false;
  bool deterministic_ = false;
  bool print_ = false;
};

}  // namespace

std::unique_ptr<Command> make_train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace nibble
