#include "nibble/train/compare.h"

#include "nibble/cli/arguments.h"
#include "nibble/cli/settings.h"
#include "nibble/report/html.h"
#include "nibble/report/table.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

class CompareCommand final : public Command {
 public:
  std::string name() const override { return "compare"; }
  std::string summary() const override { return "train several recipes on the same data and weigh them up"; }
  std::string examples() const override {
    return "  nibble compare --config configs/demo.toml --recipes bf16,fp4-direct,wang2025 --out runs/demo\n"
           "  nibble compare --config configs/demo.toml --recipes bf16,./my-recipe.toml --seeds 3 --out runs/mine";
  }
  void declare(Arguments& a) override {
    a.path("--config", config_, "training settings (TOML)", true);
    a.list("--recipes", options_.recipes, "recipes by name or file; the first is the baseline", true);
    a.integer("--seeds", options_.seeds, "seeds of every recipe");
    a.integer("--baseline-seeds", options_.baseline_seeds, "seeds of the baseline: their spread is the noise");
    a.path("--out", options_.out, "folder of the comparison; a stopped one is resumed", true);
    a.texts("--set", overrides_, "override a setting: table.key=value (repeatable)");
    a.flag("--print-config", print_, "print the whole configuration, defaults included, and exit");
  }
  int run() override {
    const TrainConfig config = load_train_config(config_, overrides_);
    if (print_) {
      fmt::print("{}", to_toml(config));
      return 0;
    }
    require_alone("compare");
    const bool complete = compare_with_progress(config, options_);
    const std::filesystem::path page = options_.out / "report.html";
    write_report({options_.out}, page);
    fmt::print("\n{}\nreport: {}\n", format_compare_table(load_comparison({options_.out})), page.string());
    if (!complete) fmt::print(stderr, "stopped; everything is saved, the same command goes on\n");
    return complete ? 0 : kStopped;
  }

 private:
  std::filesystem::path config_;
  CompareOptions options_;
  std::vector<std::string> overrides_;
  bool print_ = false;
};

}  // namespace

std::unique_ptr<Command> make_compare_command() { return std::make_unique<CompareCommand>(); }

}  // namespace nibble
