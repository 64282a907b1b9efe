#include "nibble/scaling/law_file.h"

#include <fmt/core.h>

#include <cctype>
#include <limits>
#include <set>
#include <utility>

#include "nibble/io/config_table.h"
#include "nibble/io/file.h"
#include "nibble/io/format.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

constexpr double kMost = std::numeric_limits<double>::max();
constexpr double kLeast = std::numeric_limits<double>::min();  // positive
const std::vector<std::pair<const char*, Passes>> kPasses = {
    {"both", Passes::Both}, {"forward", Passes::ForwardOnly}, {"backward", Passes::BackwardOnly}};

double positive(const ConfigTable& table, const char* key) {
  if (!table.has(key)) table.fail(key, "is missing");
  return table.number(key, 0, kLeast, kMost);
}

/// KEY_low and KEY_high, which are there together or not at all.
Interval interval(const ConfigTable& table, const std::string& key) {
  const std::string low = key + "_low";
  const std::string high = key + "_high";
  const bool has_low = table.has(low);
  if (has_low != table.has(high)) table.fail(has_low ? low : high, fmt::format("needs both {} and {}", low, high));
  if (!has_low) return {};
  const Interval found{table.number(low, 0, 0, kMost), table.number(high, 0, 0, kMost)};
  if (!found.known()) table.fail(low, fmt::format("is above {}", high));
  return found;
}

RecipeFit read_recipe(const ConfigTable& table, const std::string& key) {
  RecipeFit recipe;
  recipe.recipe = table.text("name", key);
  recipe.passes = table.choice("passes", Passes::Both, kPasses);
  if (recipe.passes != Passes::BackwardOnly) {
    recipe.efficiency.n = positive(table, "eff_n");
    recipe.n = interval(table, "eff_n");
  }
  if (recipe.passes != Passes::ForwardOnly) {
    recipe.efficiency.d = positive(table, "eff_d");
    recipe.d = interval(table, "eff_d");
  }
  recipe.points = table.integer("points", 0, 0, std::numeric_limits<std::int64_t>::max());
  recipe.rms = table.number("rms", 0, 0, kMost);
  table.finish();
  return recipe;
}

ScalingFit read_law(const ConfigTable& file) {
  ScalingFit fit;
  fit.title = file.text("title", "");
  fit.source = file.text("source", "");
  fit.baseline = file.text("baseline", fit.baseline);

  const ConfigTable law = file.table("law");
  std::array<double, 6> constants{};
  for (std::size_t i = 0; i < constants.size(); ++i) {
    constants[i] = positive(law, kLawConstantNames[i]);
    fit.intervals[i] = interval(law, kLawConstantNames[i]);
  }
  law.finish();
  fit.law = law_of_constants(constants);

  const ConfigTable of_fit = file.table("fit");
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  fit.points = of_fit.integer("points", 0, 0, kAny);
  fit.rms = of_fit.number("rms", 0, 0, kMost);
  fit.objective = of_fit.number("objective", 0, 0, kMost);
  fit.params = interval(of_fit, "params");
  fit.tokens = interval(of_fit, "tokens");
  fit.bootstrap = of_fit.integer("bootstrap", 0, 0, kAny);
  fit.seed = static_cast<std::uint64_t>(of_fit.integer("seed", 0, 0, kAny));
  of_fit.finish();

  const ConfigTable recipes = file.table("recipes");
  std::set<std::string> names;
  for (const std::string& key : recipes.keys()) {
    const ConfigTable table = recipes.table(key);
    fit.recipes.push_back(read_recipe(table, key));
    if (!names.insert(fit.recipes.back().recipe).second) table.fail("name", "is that of another recipe too");
  }
  recipes.finish();
  file.finish();
  return fit;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

/// A key that TOML takes without quotes, and that no other recipe has.
std::string table_key(const std::string& name, std::set<std::string>& taken) {
  std::string key;
  for (const char c : name) key += std::isalnum(static_cast<unsigned char>(c)) || c == '_' ? c : '-';
  if (key.empty()) key = "recipe";
  const std::string stem = key;
  for (int i = 2; !taken.insert(key).second; ++i) key = fmt::format("{}-{}", stem, i);
  return key;
}

/// {} gives the shortest text that reads back as the same double.
std::string line(const std::string& key, double value) { return fmt::format("{} = {}\n", key, value); }

std::string lines(const std::string& key, const Interval& interval) {
  if (!interval.known()) return {};
  return line(key + "_low", interval.low) + line(key + "_high", interval.high);
}

}  // namespace

ScalingFit parse_law(const std::string& text, const std::string& origin) {
  return read_law(ConfigTable::parse_text(text, origin));
}

ScalingFit load_law(const fs::path& path) { return read_law(ConfigTable::parse_file(path)); }

std::string law_to_toml(const ScalingFit& fit) {
  std::string out =
      "# L(N, D) = (A / (N eff_n)^alpha + B / (D eff_d)^beta)^gamma + E; _low and _high: 95 % bootstrap intervals\n";
  if (!fit.title.empty()) out += fmt::format("title = {}\n", quoted(fit.title));
  if (!fit.source.empty()) out += fmt::format("source = {}\n", quoted(fit.source));
  out += fmt::format("baseline = {}\n\n[law]\n", quoted(fit.baseline));
  const std::array<double, 6> constants = law_constants(fit.law);
  for (std::size_t i = 0; i < constants.size(); ++i) {
    out += line(kLawConstantNames[i], constants[i]) + lines(kLawConstantNames[i], fit.intervals[i]);
  }
  out += fmt::format("\n[fit]\npoints = {}\n", fit.points) + line("rms", fit.rms) + line("objective", fit.objective) +
         lines("params", fit.params) + lines("tokens", fit.tokens) +
         fmt::format("bootstrap = {}\nseed = {}\n", fit.bootstrap, fit.seed);
  std::set<std::string> taken;
  for (const RecipeFit& recipe : fit.recipes) {
    const std::string key = table_key(recipe.recipe, taken);
    out += fmt::format("\n[recipes.{}]\n", key);
    if (key != recipe.recipe) out += fmt::format("name = {}\n", quoted(recipe.recipe));
    for (const auto& [word, passes] : kPasses) {
      if (passes == recipe.passes && passes != Passes::Both) out += fmt::format("passes = \"{}\"\n", word);
    }
    if (recipe.passes != Passes::BackwardOnly) out += line("eff_n", recipe.efficiency.n) + lines("eff_n", recipe.n);
    if (recipe.passes != Passes::ForwardOnly) out += line("eff_d", recipe.efficiency.d) + lines("eff_d", recipe.d);
    out += fmt::format("points = {}\n", recipe.points) + line("rms", recipe.rms);
  }
  return out;
}

}  // namespace nibble
