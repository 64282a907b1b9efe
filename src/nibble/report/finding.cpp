#include "nibble/report/finding.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "nibble/io/format.h"

namespace nibble {
namespace {

using Recipes = std::vector<const RecipeSummary*>;

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    text += (i == 0 ? "" : i + 1 == words.size() ? " and " : ", ") + words[i];
  }
  return text;
}

std::string number_word(std::size_t n) {
  static constexpr std::array<const char*, 10> kWords = {"No",   "One", "Two",   "Three", "Four",
                                                         "Five", "Six", "Seven", "Eight", "Nine"};
  return n < kWords.size() ? kWords[n] : std::to_string(n);
}

const char* metric(const Comparison& comparison) {
  return comparison.gap_is_validation ? "validation loss" : "training loss";
}

const RecipeSummary* baseline_of(const Comparison& comparison) {
  return !comparison.recipes.empty() && comparison.recipes[0].is_baseline ? &comparison.recipes[0] : nullptr;
}

bool has_validation(const RecipeSummary& recipe) { return std::isfinite(recipe.val_loss); }

double final_loss(const RecipeSummary& recipe) { return has_validation(recipe) ? recipe.val_loss : recipe.train_loss; }

Recipes with_gap(const Comparison& comparison) {
  Recipes recipes;
  for (const RecipeSummary& recipe : comparison.recipes) {
    if (!recipe.is_baseline && std::isfinite(recipe.gap_percent)) recipes.push_back(&recipe);
  }
  std::stable_sort(recipes.begin(), recipes.end(),
                   [](const auto* a, const auto* b) { return a->gap_percent < b->gap_percent; });
  return recipes;
}

std::string describe_gap(const RecipeSummary& recipe, double noise) {
  const std::string size = fmt::format("{:.2f} %", std::abs(recipe.gap_percent));
  if (format_gap(recipe.gap_percent) == "0.00") return fmt::format("the same with {}", recipe.label);
  if (std::abs(recipe.gap_percent) <= noise) {
    return fmt::format("the same within the noise with {} ({} %)", recipe.label, format_gap(recipe.gap_percent));
  }
  return fmt::format("{} {} with {}", size, recipe.gap_percent < 0 ? "lower" : "higher", recipe.label);
}

std::string headline_with_baseline(const Comparison& comparison, const Recipes& recipes) {
  const std::string& base = baseline_of(comparison)->label;
  std::vector<std::string> parts;
  if (recipes.size() <= 4) {
    for (const RecipeSummary* recipe : recipes) parts.push_back(describe_gap(*recipe, comparison.noise_percent));
  } else {
    parts = {describe_gap(*recipes.front(), comparison.noise_percent) + " (the least of " +
                 std::to_string(recipes.size()) + " recipes)",
             describe_gap(*recipes.back(), comparison.noise_percent) + " (the most)"};
  }
  return fmt::format("Against {}, {} is {}.", base, metric(comparison), join(parts));
}

/// Runs of neighbours in the order of gaps that are closer to each other than the noise.
std::vector<std::string> ties(const Recipes& recipes, double noise) {
  std::vector<std::string> sentences;
  for (std::size_t begin = 0; begin < recipes.size();) {
    std::size_t end = begin + 1;
    while (end < recipes.size() && recipes[end]->gap_percent - recipes[end - 1]->gap_percent <= noise) ++end;
    if (end - begin > 1) {
      std::vector<std::string> names;
      for (std::size_t i = begin; i < end; ++i) names.push_back(recipes[i]->label);
      sentences.push_back(join(names) + " are closer to each other than the noise: their order may be chance.");
    }
    begin = end;
  }
  return sentences;
}

std::string verdict_with_baseline(const Comparison& comparison, const Recipes& recipes) {
  const RecipeSummary& base = *baseline_of(comparison);
  const double noise = comparison.noise_percent;
  if (!std::isfinite(noise)) {
    return fmt::format("Only one seed of {} was run, so the noise is not known: small differences may be chance.",
                       base.label);
  }
  // compare.json may carry the noise of seeds whose runs are not listed; then no number of seeds is claimed.
  std::string text = base.runs.size() > 1 ? fmt::format("{} seeds of {} differ by {:.2f} %",
                                                        number_word(base.runs.size()), base.label, noise)
                                          : fmt::format("Seeds of {} differ by {:.2f} %", base.label, noise);
  const auto within = [&](const RecipeSummary* recipe) { return std::abs(recipe->gap_percent) <= noise; };
  const std::vector<std::string> close = ties(recipes, noise);
  if (close.empty() && std::none_of(recipes.begin(), recipes.end(), within)) {
    text += recipes.size() == 1 ? ": the difference is larger than that noise."
                                : ": every difference here is larger than that noise.";
  } else {
    text += ".";
  }
  for (const std::string& sentence : close) text += " " + sentence;
  if (!recipes.empty() && recipes.front()->gap_percent < -noise) {
    text += fmt::format(" {} ends below {}: check that both saw the same data before calling it better.",
                        recipes.front()->label, base.label);
  }
  return text;
}

Finding single_recipe(const Comparison& comparison, const RecipeSummary& recipe) {
  Finding finding;
  std::string where;
  if (!comparison.logs.empty() && !comparison.logs[recipe.runs[0]].steps.empty()) {
    const StepRecord& last = comparison.logs[recipe.runs[0]].steps.back();
    where = fmt::format(" after {} steps", format_integer(last.step));
    if (last.tokens > 0) where += fmt::format(" ({} tokens)", format_count(static_cast<double>(last.tokens)));
  }
  if (!std::isfinite(final_loss(recipe))) {
    finding.headline = recipe.diverged ? fmt::format("{} diverged{}.", recipe.label, where)
                                       : fmt::format("{} has not logged a loss yet.", recipe.label);
    return finding;
  }
  finding.headline =
      fmt::format("{} reaches a {} loss of {}{}.", recipe.label, has_validation(recipe) ? "validation" : "training",
                  format_loss(final_loss(recipe)), where);
  if (recipe.runs.size() > 1) {
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    for (std::size_t i : recipe.runs) {
      const RunResult& run = comparison.results[i];
      const double loss = has_validation(recipe) ? run.val_loss : run.train_loss;
      low = std::min(low, loss);
      high = std::max(high, loss);
    }
    finding.verdict = fmt::format("The mean of {} seeds, which differ by {:.2f} %.", recipe.runs.size(),
                                  100 * (high - low) / final_loss(recipe));
  }
  return finding;
}

Finding without_baseline(const Comparison& comparison) {
  Recipes recipes;
  const bool validation = std::all_of(comparison.recipes.begin(), comparison.recipes.end(), has_validation);
  const auto loss = [&](const RecipeSummary& recipe) { return validation ? recipe.val_loss : recipe.train_loss; };
  for (const RecipeSummary& recipe : comparison.recipes) {
    if (std::isfinite(loss(recipe))) recipes.push_back(&recipe);
  }
  if (recipes.empty()) return {"No loss has been logged yet.", ""};
  const auto [low, high] = std::minmax_element(recipes.begin(), recipes.end(),
                                               [&](const auto* a, const auto* b) { return loss(*a) < loss(*b); });
  Finding finding;
  finding.headline = fmt::format("Of {} runs, {} has the lowest {} loss, {}, and {} the highest, {} ({} %).",
                                 comparison.recipes.size(), (*low)->label, validation ? "validation" : "training",
                                 format_loss(loss(**low)), (*high)->label, format_loss(loss(**high)),
                                 format_gap(100 * (loss(**high) / loss(**low) - 1)));
  finding.verdict = "There is no bf16 baseline among them, so neither the gap to it nor the noise is known.";
  if (comparison.unequal_lengths) finding.verdict += " The runs end at different steps.";
  return finding;
}

}  // namespace

Finding state_finding(const Comparison& comparison) {
  if (comparison.recipes.empty()) return {"There are no runs here.", ""};
  if (comparison.recipes.size() == 1) return single_recipe(comparison, comparison.recipes[0]);

  Finding finding;
  std::vector<std::string> diverged;
  for (const RecipeSummary& recipe : comparison.recipes) {
    if (recipe.diverged) diverged.push_back(recipe.label);
  }
  const std::string divergence = diverged.empty() ? "" : join(diverged) + " diverged: the loss stopped being finite.";
  const Recipes recipes = with_gap(comparison);
  if (!recipes.empty()) {
    finding.headline = headline_with_baseline(comparison, recipes);
    finding.verdict = verdict_with_baseline(comparison, recipes);
    if (comparison.unequal_lengths) {
      finding.verdict += " The runs end at different steps; each gap is taken at the last step both validated.";
    }
  } else if (baseline_of(comparison)) {
    finding.headline = "No run can be compared with the baseline.";
  } else {
    finding = without_baseline(comparison);
  }
  if (!divergence.empty()) finding.verdict += (finding.verdict.empty() ? "" : " ") + divergence;
  return finding;
}

std::string state_noise(const Comparison& comparison) {
  const RecipeSummary* base = baseline_of(comparison);
  if (!base) return "noise: not known, there is no baseline run.";
  if (!std::isfinite(comparison.noise_percent)) {
    return fmt::format("noise: not known, {} was run with one seed only (gap % is per cent of its {}).", base->label,
                       metric(comparison));
  }
  return fmt::format("noise: {}seeds of {} differ by {:.2f} % in {}, the unit of gap %.",
                     base->runs.size() > 1 ? fmt::format("{} ", base->runs.size()) : std::string(), base->label,
                     comparison.noise_percent, metric(comparison));
}

}  // namespace nibble
