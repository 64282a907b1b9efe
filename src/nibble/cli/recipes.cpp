#include <fmt/core.h>

#include <algorithm>

#include "nibble/cli/arguments.h"
#include "nibble/io/format.h"
#include "nibble/recipe/describe.h"
#include "nibble/recipe/names.h"
#include "nibble/report/table.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr std::int64_t kColumns = 4096;  // a usual width, for what a row's scale adds to each value

/// Leaves out columns without a word in them.
TextTable without_empty_columns(const TextTable& table) {
  TextTable kept;
  kept.rows.resize(table.rows.size());
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    if (std::all_of(table.rows.begin(), table.rows.end(), [&](const auto& row) { return row[c].empty(); })) continue;
    kept.columns.push_back(table.columns[c]);
    for (std::size_t r = 0; r < table.rows.size(); ++r) kept.rows[r].push_back(table.rows[r][c]);
  }
  return kept;
}

TextTable left_aligned(std::initializer_list<const char*> headers) {
  TextTable table;
  for (const char* header : headers) table.columns.push_back({header, Align::Left});
  return table;
}

/// The operands for which `shown` holds.
template <class F>
void print_operands(const LinearRecipe& linear, const F& shown) {
  TextTable table = left_aligned({"operand", "element", "block", "scale", "rounding", "transform", "from", "besides"});
  table.columns.push_back({"bits", Align::Right});
  for (const Operand o : kAllOperands) {
    if (!shown(o)) continue;
    const OperandWords w = operand_words(linear[o]);
    const bool again = linear[o].source == OperandSource::Fprop;
    const Operand stored = !again ? o : o == Operand::DgradW ? Operand::FpropW : Operand::FpropX;
    table.rows.push_back({operand_name(o), w.element, w.block, w.scale, w.rounding, w.transform, w.source, w.besides,
                          fmt::format("{:.2f}", stored_bits(linear[stored].quant, kColumns))});
  }
  if (!table.rows.empty()) fmt::print("{}", format_table(without_empty_columns(table)));
}

void print_facts(const std::vector<Fact>& facts) {
  for (const Fact& f : facts) fmt::print("{}: {}\n", f.what, f.value);
}

/// What differs from `before`, if anything does.
void print_changes(const std::string& heading, const LinearRecipe& before, const LinearRecipe& changed) {
  const auto differs = [&](Operand o) { return before[o] != changed[o]; };
  const std::vector<Fact> now = extras(changed);
  fmt::print("\n{}\n", heading);
  print_operands(changed, differs);
  for (const Fact& f : extras(before)) {
    if (std::none_of(now.begin(), now.end(), [&](const Fact& g) { return g.what == f.what; })) {
      fmt::print("{}: none\n", f.what);
    }
  }
  print_facts(now);
}

void show(const Recipe& recipe) {
  fmt::print("{}: {}\n", recipe.name, recipe.title);
  if (!recipe.source.empty()) fmt::print("source: {}\n", recipe.source);
  if (recipe.unbiased_gradient) fmt::print("the gradient is claimed to be unbiased\n");
  fmt::print("\n");
  print_operands(recipe.base(), [](Operand) { return true; });
  print_facts(extras(recipe.base()));
  print_facts(exemptions(recipe));
  for (std::size_t m = 0; m < recipe.modules.size(); ++m) {
    print_changes(fmt::format("{}:", join_names(recipe.modules[m])), recipe.base(), recipe.stages.front().linear[m]);
  }
  for (std::size_t s = 1; s < recipe.stages.size(); ++s) {
    print_changes(fmt::format("stage {}, {}:", s, stage_words(recipe.stages[s])), recipe.stages[s - 1].linear.back(),
                  recipe.stages[s].linear.back());
  }
  const std::vector<Fact> state = extra_state(recipe);
  fmt::print("\nextra state{}\n", state.empty() ? ": none" : ":");
  for (const Fact& f : state) fmt::print("  {}: {}\n", f.what, f.value);
}

class ListCommand final : public Command {
 public:
  std::string name() const override { return "recipes list"; }
  std::string summary() const override { return "list the recipes with the formats of their three products"; }
  std::string examples() const override { return "  nibble recipes list"; }
  void declare(Arguments&) override {}
  int run() override {
    TextTable table = left_aligned({"recipe", "fprop X x W", "dgrad dY x W", "wgrad dY x X", "title"});
    for (const std::string& name : known_recipes()) {
      try {
        const Recipe r = load_recipe(find_recipe(name));
        table.rows.push_back({name, product_formats(r.base(), Operand::FpropX),
                              product_formats(r.base(), Operand::DgradDy), product_formats(r.base(), Operand::WgradDy),
                              r.title});
      } catch (const UserError& e) {  // one bad file must not hide the others
        table.rows.push_back({name, "", "", "", fmt::format("not valid: {}", e.what())});
      }
    }
    if (table.rows.empty()) user_error("there is no recipe folder here: set NIBBLE_RECIPES to one");
    fmt::print("{}", format_table(table));
    return 0;
  }
};

class ShowCommand final : public Command {
 public:
  std::string name() const override { return "recipes show"; }
  std::string summary() const override { return "say what a recipe does, operand by operand"; }
  std::string examples() const override { return "  nibble recipes show bf16\n  nibble recipes show ./mine.toml"; }
  void declare(Arguments& a) override { a.text("recipe", recipe_, "a recipe by name or file", true); }
  int run() override {
    show(load_recipe(find_recipe(recipe_)));
    return 0;
  }

 private:
  std::string recipe_;
};

class DiffCommand final : public Command {
 public:
  std::string name() const override { return "recipes diff"; }
  std::string summary() const override { return "say what two recipes do differently"; }
  std::string examples() const override { return "  nibble recipes diff bf16 ./mine.toml"; }
  void declare(Arguments& a) override {
    a.text("a", a_, "a recipe by name or file", true);
    a.text("b", b_, "another", true);
  }
  int run() override {
    const Recipe a = load_recipe(find_recipe(a_));
    const Recipe b = load_recipe(find_recipe(b_));
    TextTable table = left_aligned({"what", a.name.c_str(), b.name.c_str()});
    for (const Difference& d : differences(a, b)) table.rows.push_back({d.what, d.a, d.b});
    if (table.rows.empty()) {
      fmt::print("{} and {} say the same\n", a.name, b.name);
    } else {
      fmt::print("{}", format_table(table));
    }
    return 0;
  }

 private:
  std::string a_;
  std::string b_;
};

class CheckCommand final : public Command {
 public:
  std::string name() const override { return "recipes check"; }
  std::string summary() const override { return "say whether a recipe file is valid, and if not, why"; }
  std::string examples() const override { return "  nibble recipes check ./mine.toml"; }
  void declare(Arguments& a) override { a.text("recipe", recipe_, "a recipe by file or name", true); }
  int run() override {
    const std::filesystem::path file = find_recipe(recipe_);
    const Recipe recipe = load_recipe(file);
    fmt::print("{} is valid: {}\n", file.string(), recipe.title);
    return 0;
  }

 private:
  std::string recipe_;
};

}  // namespace

std::unique_ptr<Command> make_recipes_list_command() { return std::make_unique<ListCommand>(); }
std::unique_ptr<Command> make_recipes_show_command() { return std::make_unique<ShowCommand>(); }
std::unique_ptr<Command> make_recipes_diff_command() { return std::make_unique<DiffCommand>(); }
std::unique_ptr<Command> make_recipes_check_command() { return std::make_unique<CheckCommand>(); }

}  // namespace nibble
