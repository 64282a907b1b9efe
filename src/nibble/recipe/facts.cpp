#include <fmt/core.h>

#include <algorithm>

#include "nibble/io/format.h"
#include "nibble/recipe/describe.h"
#include "nibble/recipe/names.h"

namespace nibble {

namespace {

std::vector<Fact> linear_facts(const LinearRecipe& linear) {
  std::vector<Fact> found;
  for (const Operand o : kAllOperands) {
    const OperandWords w = operand_words(linear[o]);
    const std::pair<const char*, const std::string*> columns[] = {
        {"element", &w.element},     {"block", &w.block},   {"scale", &w.scale},    {"rounding", &w.rounding},
        {"transform", &w.transform}, {"source", &w.source}, {"besides", &w.besides}};
    for (const auto& [column, words] : columns) {
      if (!words->empty()) found.push_back({fmt::format("{} {}", operand_name(o), column), *words});
    }
  }
  const std::vector<Fact> more = extras(linear);
  found.insert(found.end(), more.begin(), more.end());
  return found;
}

const std::string* value_of(const std::vector<Fact>& all, const std::string& what) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Fact& f) { return f.what == what; });
  return found == all.end() ? nullptr : &found->value;
}

/// What `changed` says otherwise than `before`: operands as a whole, for few stay half as they were.
void append_changes(const std::string& prefix, const LinearRecipe& before, const LinearRecipe& changed,
                    std::vector<Fact>& to) {
  for (const Operand o : kAllOperands) {
    if (before[o] != changed[o]) to.push_back({prefix + operand_name(o), describe(changed[o])});
  }
  const std::vector<Fact> old_facts = extras(before);
  const std::vector<Fact> new_facts = extras(changed);
  for (const Fact& f : new_facts) {
    const std::string* was = value_of(old_facts, f.what);
    if (was == nullptr || *was != f.value) to.push_back({prefix + f.what, f.value});
  }
  for (const Fact& f : old_facts) {
    if (value_of(new_facts, f.what) == nullptr) to.push_back({prefix + f.what, "none"});
  }
}

}  // namespace

std::vector<Fact> facts(const Recipe& recipe) {
  std::vector<Fact> all = linear_facts(recipe.base());
  const std::vector<Fact> kept = exemptions(recipe);
  all.insert(all.end(), kept.begin(), kept.end());
  if (recipe.unbiased_gradient) all.push_back({"unbiased gradient", "claimed"});
  for (std::size_t m = 0; m < recipe.modules.size(); ++m) {
    const std::string layers = join_names(recipe.modules[m]);
    append_changes(layers + ": ", recipe.base(), recipe.stages.front().linear[m], all);
  }
  for (std::size_t s = 1; s < recipe.stages.size(); ++s) {
    const std::string stage = fmt::format("stage {}", s);
    all.push_back({stage, stage_words(recipe.stages[s])});
    for (std::size_t m = 0; m <= recipe.modules.size(); ++m) {
      const std::string layers = m < recipe.modules.size() ? fmt::format("{}: ", join_names(recipe.modules[m])) : "";
      append_changes(stage + " " + layers, recipe.stages[s - 1].linear[m], recipe.stages[s].linear[m], all);
    }
  }
  return all;
}

std::vector<Difference> differences(const Recipe& a, const Recipe& b) {
  const std::vector<Fact> of_a = facts(a);
  const std::vector<Fact> of_b = facts(b);
  std::vector<Difference> found;
  for (const Fact& f : of_a) {
    const std::string* other = value_of(of_b, f.what);
    if (other == nullptr || *other != f.value) found.push_back({f.what, f.value, other == nullptr ? "-" : *other});
  }
  for (const Fact& f : of_b) {
    if (value_of(of_a, f.what) == nullptr) found.push_back({f.what, "-", f.value});
  }
  return found;
}

}  // namespace nibble
