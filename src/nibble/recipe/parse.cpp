// Recipe files: what they extend, the tables of the first stage, modules, stages.
#include <algorithm>

#include "nibble/io/config_table.h"
#include "nibble/io/file.h"
#include "nibble/io/format.h"
#include "nibble/recipe/linear_table.h"
#include "nibble/recipe/names.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

/// The file that `extends = "NAME"` means: a path from the file's own folder, or a name, looked for beside the file,
/// one folder up, and then as everywhere.
fs::path extended_file(const ConfigTable& root, const fs::path& folder) {
  const std::string name = root.text("extends");
  std::error_code ignored;  // a name that is too long is not there
  if (name.find('/') != std::string::npos || name.ends_with(".toml")) {
    fs::path path = folder / name;
    if (!fs::is_regular_file(path, ignored)) root.fail("extends", fmt::format("there is no file {}", path.string()));
    return path;
  }
  for (const fs::path& place : {folder, folder / ".."}) {
    const fs::path path = place / (name + ".toml");
    if (fs::is_regular_file(path, ignored)) return path.lexically_normal();
  }
  try {
    return find_recipe(name);
  } catch (const UserError& e) {
    root.fail("extends", e.what());
  }
}

/// Merges into `root` the file that it extends, and that file's in turn. `chain` holds the files so far.
void resolve_extends(ConfigTable& root, const fs::path& folder, std::vector<fs::path>& chain) {
  const fs::path file = extended_file(root, folder);
  const fs::path absolute = fs::weakly_canonical(file);
  if (std::find(chain.begin(), chain.end(), absolute) != chain.end()) {
    root.fail("extends", fmt::format("'{}' goes in a circle: it extends this file in turn", root.text("extends")));
  }
  chain.push_back(absolute);
  ConfigTable base = ConfigTable::parse_file(file);
  if (base.has("extends")) resolve_extends(base, file.parent_path(), chain);
  for (const char* own : {"name", "title"}) base.erase(own);
  root.erase("extends");
  root.inherit(std::move(base), {"fprop", "dgrad", "wgrad"});
}

void parse_layers(const ConfigTable& table, Recipe& recipe) {
  recipe.exempt = table.texts("exempt");
  recipe.exempt_first_blocks = table.integer("exempt_first_blocks", 0, 0, 10000);
  recipe.exempt_last_blocks = table.integer("exempt_last_blocks", 0, 0, 10000);
  recipe.exempt_last_share = table.number("exempt_last_share", 0, 0, 1);
  table.finish();
}

Stage parse_stage(const ConfigTable& table, const Stage& before) {
  Stage stage;
  stage.monitor = table.choice("monitor", Stage::Monitor::None, monitor_names());
  const bool monitored = stage.monitor != Stage::Monitor::None;
  if (!monitored && !table.has("from")) {
    table.fail("from", "is missing: a stage begins at a share of the run (from = 0.9) or by a monitor");
  }
  stage.from = table.number("from", before.from, 0, 1);
  if (stage.from < before.from || (!monitored && stage.from <= before.from)) {
    table.fail("from",
               fmt::format("is {}, but the stage before it begins at {}: stages ascend", stage.from, before.from));
  }
  for (const char* key : {"below", "patience"}) {
    if (!monitored && table.has(key)) table.fail(key, "goes with a monitor only");
  }
  if (monitored) {
    stage.below = table.number("below", 0, 0, 1e9);
    if (stage.below <= 0)
      table.fail("below", "must be given, and positive: the stage begins when the figure is below it");
    stage.patience = table.integer("patience", 1, 1, 1'000'000);
  }
  stage.rewarm_steps = table.integer("rewarm_steps", 0, 0, 1'000'000'000);
  return stage;
}

std::string stage_context(const Stage& stage) {
  return stage.monitor == Stage::Monitor::None ? fmt::format(" (in the stage from {})", stage.from)
                                               : " (in the stage that a monitor begins)";
}

/// The rules of [[modules]] over the base, the base last.
std::vector<WrittenLinear> parse_modules(const ConfigTable& root, Recipe& recipe) {
  WrittenLinear base = unwritten_linear(root);
  override_linear(base, root, /*shorthands=*/false);
  std::vector<WrittenLinear> rules;
  for (const ConfigTable& table : root.tables("modules")) {
    const std::vector<std::string> layers = table.texts("layers");
    if (layers.empty())
      table.fail("layers", "is missing: name the layers that the rule is for, such as \"layers.*.mlp.down\"");
    recipe.modules.push_back(layers);
    rules.push_back(base);
    rules.back().context = fmt::format(" (for {})", join_names(layers));
    override_linear(rules.back(), table, /*shorthands=*/true);
    table.finish();
  }
  rules.push_back(std::move(base));
  return rules;
}

Stage with_rules(Stage stage, const std::vector<WrittenLinear>& rules, bool unbiased) {
  // The base first: what is wrong there is wrong in every rule, and is to be reported without a context.
  check_linear(rules.back(), unbiased);
  for (const WrittenLinear& rule : rules) {
    check_linear(rule, unbiased);
    stage.linear.push_back(rule.recipe);
  }
  return stage;
}

}  // namespace

Recipe parse_recipe(const std::string& text, const std::string& origin) {
  ConfigTable root = ConfigTable::parse_text(text, origin);
  Recipe recipe;
  recipe.text = text;
  recipe.name = root.text("name");
  if (root.has("extends")) {
    const fs::path file = origin;
    std::vector<fs::path> chain = {fs::weakly_canonical(file)};
    resolve_extends(root, file.parent_path(), chain);
    recipe.text = root.to_toml() + "\n";
  }
  recipe.title = root.text("title", recipe.name);
  recipe.source = root.text("source", "");
  recipe.unbiased_gradient = root.boolean("unbiased_gradient", false);
  recipe.high_precision = unquantised_recipe(ElementFormat::BF16).base();
  parse_layers(root.table("layers"), recipe);

  std::vector<WrittenLinear> rules = parse_modules(root, recipe);
  recipe.stages.push_back(with_rules({}, rules, recipe.unbiased_gradient));
  std::vector<std::string> contexts;
  contexts.reserve(rules.size());
  for (const WrittenLinear& rule : rules) contexts.push_back(rule.context);
  for (const ConfigTable& table : root.tables("stages")) {
    Stage stage = parse_stage(table, recipe.stages.back());
    for (std::size_t i = 0; i < rules.size(); ++i) {
      override_linear(rules[i], table, /*shorthands=*/true);
      rules[i].context = contexts[i] + stage_context(stage);
    }
    table.finish();
    recipe.stages.push_back(with_rules(std::move(stage), rules, recipe.unbiased_gradient));
  }
  root.finish();
  return recipe;
}

Recipe load_recipe(const fs::path& path) { return parse_recipe(read_file(path), path.string()); }

}  // namespace nibble
