#include <cmath>

#include "nibble/cli/arguments.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/data_file.h"
#include "nibble/io/format.h"
#include "nibble/model/config.h"
#include "nibble/report/table.h"
#include "nibble/scaling/figures.h"
#include "nibble/scaling/law_file.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

ScalingFit find_law(const std::string& name) { return load_law(find_data_file("laws", name, "law")); }

double model_size(const std::string& name) {
  return static_cast<double>(load_llama_config(find_data_file("models", name, "model")).non_embedding_parameters());
}

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

std::vector<double> counts(const std::vector<std::string>& words, const char* option) {
  std::vector<double> values;
  values.reserve(words.size());
  for (const std::string& word : words) values.push_back(parse_count(word, option));
  return values;
}

std::vector<Precision> precisions_with(const std::string& speedups) {
  std::vector<Precision> precisions = default_precisions();
  for (const std::string& assignment : split_commas(speedups)) set_speedup(precisions, assignment);
  return precisions;
}

void print_law(const ScalingFit& fit, bool fixed) {
  TextTable table;
  table.columns = {{"constant", Align::Left}, {"value"}, {"95 % interval"}};
  const auto constants = law_constants(fit.law);
  for (std::size_t i = 0; i < constants.size(); ++i) {
    const Interval& interval = fit.intervals[i];
    table.rows.push_back({kLawConstantNames[i], fmt::format("{:.6g}", constants[i]),
                          interval.known() ? fmt::format("{:.4g} to {:.4g}", interval.low, interval.high) : "-"});
  }
  fmt::print("{}\n", format_table(table));
  if (!fixed) {
    fmt::print("law: {} runs of {}, residual {} (root mean square)\n\n", fit.points, fit.baseline,
               format_percent(fit.rms));
  }
}

void print_recipes(const ScalingFit& fit) {
  if (fit.recipes.empty()) return;
  TextTable table;
  table.columns = {{"recipe", Align::Left}, {"effN"}, {"95 %"}, {"effD"}, {"95 %"}, {"runs"}, {"residual"}};
  const auto value = [](bool has, double x) { return has ? fmt::format("{:#.4g}", x) : std::string("1"); };
  for (const RecipeFit& r : fit.recipes) {
    table.rows.push_back({r.recipe, value(r.passes != Passes::BackwardOnly, r.efficiency.n),
                          format_efficiency_interval(r.n), value(r.passes != Passes::ForwardOnly, r.efficiency.d),
                          format_efficiency_interval(r.d), format_integer(r.points), format_percent(r.rms)});
  }
  fmt::print("{}\n", format_table(table));
}

void print_map(const PrecisionMap& map, const std::string& recipe) {
  fmt::print("best precision for {} (rows: N, columns: D/N)\n\n", recipe);
  TextTable table;
  table.columns = {{"N", Align::Right}};
  for (const double ratio : map.ratios) table.columns.push_back({fmt::format("{:g}", ratio)});
  for (std::size_t r = 0; r < map.cells.size(); ++r) {
    std::vector<std::string> row = {format_count(map.params[r])};
    for (const PrecisionMap::Cell& cell : map.cells[r]) row.push_back(map.precisions[cell.best].name);
    table.rows.push_back(std::move(row));
  }
  fmt::print("{}\n", format_table(table));
  for (const Precision& p : map.precisions) {
    fmt::print("{}  speed-up forward {:.3g}, backward {:.3g}, step {:.3g}\n", p.name, p.forward, p.backward,
               p.training);
  }
}

constexpr const char* kSpeedupHelp =
    "speed-ups over FP8, e.g. FP4:FP8=1.8/1,FP4:FP4=1.8/1.5/1.6 (forward/backward/step)";

class ScalingFitCommand final : public Command {
 public:
  std::string name() const override { return "scaling fit"; }
  std::string summary() const override { return "fit a law L(N, D), and effN and effD of recipes, to losses"; }
  std::string examples() const override {
    return "  nibble scaling fit runs/sweep --out runs/sweep/law\n"
           "  nibble scaling fit runs/a runs/b more.csv --base bf16 --bootstrap 1000\n"
           "  nibble scaling fit runs/small --law quartet          (few runs: keep a published law, fit the recipes)\n"
           "  nibble scaling fit laws/quartet-losses.csv           (what the paper did)\n"
           "Sources are run folders, folders of them (a comparison's, too), and tables (.csv, .tsv, .json) with the "
           "columns\nrecipe, params or model, tokens or ratio, loss.";
  }
  void declare(Arguments& a) override {
    a.texts("sources", sources_, "runs, comparisons, tables", true);
    a.text("--base", options_.baseline, "recipe that the law is fitted to (effN = effD = 1)");
    a.text("--law", law_, "fixed law by name (laws/NAME.toml) or file, instead of a fit");
    a.text("--forward-only", forward_only_, "recipes A,B,... that quantise the forward pass only: effD = 1");
    a.text("--backward-only", backward_only_, "recipes A,B,... that quantise the backward pass only: effN = 1");
    a.integer("--bootstrap", options_.bootstrap, "resamples for the 95 % intervals; 0 = none");
    a.integer("--seed", seed_, "of the resamples");
    a.text("--speedups", speedups_, kSpeedupHelp);
    a.path("--out", out_, "folder for law.toml, scaling.html, scaling.svg and precision.svg");
  }
  int run() override {
    if (options_.bootstrap < 0 || options_.bootstrap > 1'000'000) {
      user_error("--bootstrap is {}, must be 0 to 1000000", options_.bootstrap);
    }
    if (seed_ < 0) user_error("--seed is {}, must not be negative", seed_);
    options_.seed = static_cast<std::uint64_t>(seed_);
    options_.forward_only = split_commas(forward_only_);
    options_.backward_only = split_commas(backward_only_);
    if (!law_.empty()) options_.law = find_law(law_);
    const std::vector<Precision> precisions = precisions_with(speedups_);
    const LossPoints read = read_loss_points({sources_.begin(), sources_.end()}, model_size);
    for (const std::string& note : read.notes) fmt::print(stderr, "{}\n", note);
    const ScalingFit fit = fit_scaling(read.points, options_);
    print_law(fit, options_.law.has_value());
    const std::vector<LossPoint> baseline = points_of(read.points, fit.baseline);
    if (options_.law && !baseline.empty()) {
      fmt::print("law: {}, not fitted; the {} runs of {} lie {} from it (root mean square)\n\n", law_, baseline.size(),
                 fit.baseline, format_percent(rms_residual(baseline, fit.law)));
    }
    print_recipes(fit);
    if (!out_.empty()) write(fit, read.points, precisions);
    return 0;
  }

 private:
  void write(const ScalingFit& fit, const std::vector<LossPoint>& points, const std::vector<Precision>& precisions) {
    make_directories(out_);
    write_file_atomic(out_ / "law.toml", law_to_toml(fit));
    write_file_atomic(out_ / "scaling.svg", standalone_svg(draw(loss_chart(fit, points))));
    for (const RecipeFit& recipe : fit.recipes) {
      if (recipe.passes != Passes::Both) continue;
      const PrecisionMap map = map_precisions(fit.law, recipe.efficiency, precisions, map_params(), map_ratios());
      print_map(map, recipe.recipe);
      write_file_atomic(out_ / "precision.svg", standalone_svg(draw(precision_chart(map, recipe.recipe))));
      fmt::print("\n");
      break;  // the page shows the others, `nibble scaling map` prints them
    }
    write_file_atomic(out_ / "scaling.html", scaling_page(fit, points, precisions));
    fmt::print("law: {}\npage: {}\n", (out_ / "law.toml").string(), (out_ / "scaling.html").string());
  }

  std::vector<std::string> sources_;
  FitOptions options_;
  std::string law_;
  std::string forward_only_;
  std::string backward_only_;
  std::string speedups_;
  std::int64_t seed_ = 1;
  std::filesystem::path out_;
};

/// --recipe, or --eff-n and --eff-d: whose efficiencies a prediction takes.
class RecipeChoice {
 public:
  void declare(Arguments& a) {
    a.text("--recipe", recipe_, "recipe of the law file; several: A,B,...");
    a.text("--eff-n", n_, "effN, instead of a recipe's");
    a.text("--eff-d", d_, "effD, instead of a recipe's");
  }
  /// Name and efficiencies; without any option, every recipe of the law.
  std::vector<std::pair<std::string, Efficiency>> choose(const ScalingFit& fit) const {
    std::vector<std::pair<std::string, Efficiency>> chosen;
    if (!n_.empty() || !d_.empty()) {
      if (!recipe_.empty()) user_error("give either --recipe or --eff-n and --eff-d, not both");
      Efficiency efficiency;
      if (!n_.empty()) efficiency.n = counts({n_}, "--eff-n")[0];
      if (!d_.empty()) efficiency.d = counts({d_}, "--eff-d")[0];
      chosen.emplace_back(fmt::format("effN {:g}, effD {:g}", efficiency.n, efficiency.d), efficiency);
    } else if (!recipe_.empty()) {
      for (const std::string& name : split_commas(recipe_)) {
        chosen.emplace_back(name, name == fit.baseline ? Efficiency{} : fit.recipe(name).efficiency);
      }
    } else {
      for (const RecipeFit& recipe : fit.recipes) chosen.emplace_back(recipe.recipe, recipe.efficiency);
    }
    return chosen;
  }
  bool given() const { return !recipe_.empty() || !n_.empty() || !d_.empty(); }

 private:
  std::string recipe_;
  std::string n_;
  std::string d_;
};

std::string factor_text(double factor) { return std::isinf(factor) ? "never" : fmt::format("{:.3g}", factor); }

/// "N = 7.00 G, beyond 30.5 M to 822 M", or nothing where all lie inside.
std::string beyond(const Interval& fitted, const std::vector<double>& asked, const char* name) {
  if (!fitted.known()) return {};
  for (const double value : asked) {
    if (value >= 0.999 * fitted.low && value <= 1.001 * fitted.high) continue;
    return fmt::format("{} = {}, beyond {} to {}", name, format_count(value), format_count(fitted.low),
                       format_count(fitted.high));
  }
  return {};
}

void warn_of_extrapolation(const ScalingFit& fit, const std::vector<double>& params,
                           const std::vector<double>& tokens) {
  const std::string n = beyond(fit.params, params, "N");
  const std::string d = beyond(fit.tokens, tokens, "D");
  if (n.empty() && d.empty()) return;
  fmt::print("\nan extrapolation from the runs that the law was fitted to: {}{}{}\n", n,
             n.empty() || d.empty() ? "" : "; ", d);
}

class ScalingPredict final : public Command {
 public:
  std::string name() const override { return "scaling predict"; }
  std::string summary() const override { return "losses that a law expects, and what a recipe costs in tokens"; }
  std::string examples() const override {
    return "  nibble scaling predict --law quartet --params 200M --tokens 20B --recipe quartet\n"
           "  nibble scaling predict --law runs/sweep/law/law.toml --params 1B,7B --ratios 20,100,500\n"
           "  nibble scaling predict --law quartet-refit --params 7B --tokens 2T --eff-n 0.65 --eff-d 0.9\n"
           "tokens x: how many times the baseline's tokens the recipe sees for the loss that it reaches;\n"
           "to catch up x: how many times its tokens it would have to see for the baseline's loss.";
  }
  void declare(Arguments& a) override {
    a.text("--law", law_, "law by name (laws/NAME.toml) or file", true);
    a.list("--params", params_, "N, parameters without embedding and head: 30482560, 200M, ...", true);
    a.list("--tokens", tokens_, "D, training tokens: 3B, ...");
    a.list("--ratios", ratios_, "D/N, instead of --tokens");
    recipe_.declare(a);
  }
  int run() override {
    const ScalingFit fit = find_law(law_);
    if (tokens_.empty() == ratios_.empty()) user_error("give either --tokens or --ratios");
    const std::vector<double> params = counts(params_, "--params");
    const std::vector<double> amounts = tokens_.empty() ? counts(ratios_, "--ratios") : counts(tokens_, "--tokens");
    auto chosen = recipe_.choose(fit);
    if (chosen.empty()) chosen.emplace_back(fit.baseline, Efficiency{});
    TextTable table;
    table.columns = {{"N"},   {"D"},     {"D/N"},      {"recipe", Align::Left}, {"loss"}, {fit.baseline},
                     {"gap"}, {"gap %"}, {"tokens x"}, {"to catch up x"}};
    std::vector<double> all_tokens;
    for (const double n : params) {
      for (const double amount : amounts) {
        const double tokens = tokens_.empty() ? amount * n : amount;
        all_tokens.push_back(tokens);
        for (const auto& [name, efficiency] : chosen) {
          const Prediction p = predict(fit.law, n, tokens, efficiency);
          table.rows.push_back({format_count(n), format_count(tokens), fmt::format("{:.4g}", tokens / n), name,
                                format_loss(p.loss), format_loss(p.baseline_loss), format_loss(p.gap()),
                                format_gap(p.gap_percent()), factor_text(p.token_factor),
                                factor_text(p.catch_up_factor)});
        }
      }
    }
    fmt::print("{}", format_table(table));
    warn_of_extrapolation(fit, params, all_tokens);
    return 0;
  }

 private:
  std::string law_;
  std::vector<std::string> params_;
  std::vector<std::string> tokens_;
  std::vector<std::string> ratios_;
  RecipeChoice recipe_;
};

class ScalingMap final : public Command {
 public:
  std::string name() const override { return "scaling map"; }
  std::string summary() const override {
    return "which forward and backward precision is best at which size and length";
  }
  std::string examples() const override {
    return "  nibble scaling map --law quartet --recipe quartet\n"
           "  nibble scaling map --law quartet --eff-n 0.64 --eff-d 0.94 --speedups FP4:FP4=1.7/1.5 --out map.svg";
  }
  void declare(Arguments& a) override {
    a.text("--law", law_, "law by name (laws/NAME.toml) or file", true);
    recipe_.declare(a);
    a.text("--speedups", speedups_, kSpeedupHelp);
    a.list("--params", params_, "rows; by default 10M to 1T");
    a.list("--ratios", ratios_, "columns, D/N; by default 10 to 5000");
    a.path("--out", out_, "an SVG file of the map");
  }
  int run() override {
    const ScalingFit fit = find_law(law_);
    const auto chosen = recipe_.choose(fit);
    if (!recipe_.given() || chosen.size() != 1) {
      user_error("say whose map it is: --recipe NAME, or --eff-n X and --eff-d Y");
    }
    const PrecisionMap map = map_precisions(fit.law, chosen[0].second, precisions_with(speedups_),
                                            params_.empty() ? map_params() : counts(params_, "--params"),
                                            ratios_.empty() ? map_ratios() : counts(ratios_, "--ratios"));
    print_map(map, chosen[0].first);
    if (!out_.empty()) {
      write_file_atomic(out_, standalone_svg(draw(precision_chart(map, chosen[0].first))));
      fmt::print("\nmap: {}\n", out_.string());
    }
    return 0;
  }

 private:
  std::string law_;
  RecipeChoice recipe_;
  std::string speedups_;
  std::vector<std::string> params_;
  std::vector<std::string> ratios_;
  std::filesystem::path out_;
};

}  // namespace

std::unique_ptr<Command> make_scaling_fit_command() { return std::make_unique<ScalingFitCommand>(); }
std::unique_ptr<Command> make_scaling_predict_command() { return std::make_unique<ScalingPredict>(); }
std::unique_ptr<Command> make_scaling_map_command() { return std::make_unique<ScalingMap>(); }

}  // namespace nibble
