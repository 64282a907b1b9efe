#include "nibble/report/league.h"

#include "nibble/cli/arguments.h"
#include "nibble/cli/settings.h"
#include "nibble/cost/theory.h"
#include "nibble/tensor/error.h"
#include "nibble/train/compare.h"

namespace nibble {

namespace {

class LeagueCommand final : public Command {
 public:
  std::string name() const override { return "league"; }
  std::string summary() const override { return "rank many recipes by their gap and their theoretical cost"; }
  std::string examples() const override {
    return "  nibble league --compare runs/small runs/large --out runs/league\n"
           "  nibble league --config configs/demo.toml --recipes bf16,fp4-direct,wang2025 --seeds 2 --out runs/league";
  }
  void declare(Arguments& a) override {
    a.texts("--compare", sources_,
            "folders that nibble compare wrote, or of runs: the completed ones count, bf16 is the baseline");
    a.path("--config", config_, "first compare --recipes with these training settings (TOML)");
    a.list("--recipes", options_.recipes, "recipes by name or file; the first is the baseline");
    a.integer("--seeds", options_.seeds, "seeds of every recipe");
    a.texts("--set", overrides_, "override a setting: table.key=value (repeatable)");
    a.path("--out", out_, "folder of league.md, .json, .svg and .html; a comparison goes to its sub-folder compare");
  }
  int run() override {
    std::vector<std::filesystem::path> sources(sources_.begin(), sources_.end());
    if (config_.empty() != options_.recipes.empty()) {
      user_error("{} needs {} beside it", config_.empty() ? "--recipes" : "--config",
                 config_.empty() ? "--config" : "--recipes");
    }
    if (!config_.empty()) {
      if (!run_comparison()) {
        fmt::print(stderr, "stopped; everything is saved, the same command goes on\n");
        return kStopped;
      }
      sources.push_back(options_.out);
    }
    const LeagueKnowledge knowledge{[](const ConfigTable& model) {
                                      return static_cast<double>(read_llama_config(model).non_embedding_parameters());
                                    },
                                    [](const ConfigTable& model, const std::string& recipe, const std::string& text) {
                                      const Recipe read =
                                          text.empty() ? load_recipe(find_recipe(recipe)) : parse_recipe(text, recipe);
                                      return theoretical_relative_cost(read_llama_config(model), read);
                                    }};
    const League league = make_league(sources, knowledge);
    write_league(league, out_);
    fmt::print("{}\nleague: {}\n", league_text(league), (out_ / "league.html").string());
    return 0;
  }

 private:
  bool run_comparison() {
    const TrainConfig config = load_train_config(config_, overrides_);
    options_.out = out_ / "compare";
    options_.baseline_seeds = options_.seeds;
    return compare_with_progress(config, options_);
  }

  std::vector<std::string> sources_;
  std::vector<std::string> overrides_;
  std::filesystem::path config_;
  std::filesystem::path out_ = "runs/league";
  CompareOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_league_command() { return std::make_unique<LeagueCommand>(); }

}  // namespace nibble
