#include "nibble/cli/arguments.h"
#include "nibble/cli/settings.h"
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
           "  nibble train --config tune.toml --init smollm2-135m --recipe nvfp4 --set model.seq=512 --out runs/tuned\n"
           "  nibble train --config configs/demo.toml --set optimizer.lr=2e-3 --set train.steps=500 --print-config";
  }
  void declare(Arguments& a) override {
    a.path("--config", config_, "training settings (TOML)", true);
    a.text("--recipe", recipe_, "recipe by name or file; overrides the configuration");
    a.path("--out", out_, "folder of the run");
    a.path("--init", init_, "begin with a model of the Hugging Face tools: folder of config.json and safetensors");
    a.texts("--set", overrides_, "override a setting: table.key=value (repeatable)");
    a.flag("--resume", resume_, "go on from the newest checkpoint in --out");
    a.flag("--print-config", print_, "print the whole configuration, defaults included, and exit");
  }
  int run() override {
    if (!init_.empty()) {
      const std::vector<std::string> init = init_overrides(init_);
      overrides_.insert(overrides_.begin(), init.begin(), init.end());
    }
    TrainConfig config = load_train_config(config_, overrides_);
    if (!recipe_.empty()) config.recipe = recipe_;
    const Recipe recipe = load_recipe(find_recipe(config.recipe));
    if (print_) {
      fmt::print("{}", to_toml(config));
      return 0;
    }
    if (out_.empty()) user_error("where should the run go? pass --out DIR");
    TrainDisplay display(out_.filename().string(), config);
    const bool complete =
        train(config, recipe, out_, resume_ ? Resume::Required : Resume::No, stop_on_signals(), display.callbacks());
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
  bool resume_ = false;
  bool print_ = false;
};

}  // namespace

std::unique_ptr<Command> make_train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace nibble
