#include "nibble/report/page_charts.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/io/format.h"

namespace nibble {
namespace {

// A drawing a thousand pixels wide needs no more points than this; the page stays small for runs of any length.
constexpr std::size_t kPoints = 320;

int dash_of(const Comparison& comparison, std::size_t recipe) {
  const bool has_baseline = comparison.recipes[0].is_baseline;
  return static_cast<int>((recipe - (has_baseline && recipe > 0 ? 1 : 0)) / (kSeriesColors - 1));
}

/// The series of run `position` of a recipe: the first carries the label, the others are dashed.
Series run_series(const Comparison& comparison, std::size_t recipe, std::size_t position) {
  const RecipeSummary& summary = comparison.recipes[recipe];
  const RunLog& run = comparison.logs[summary.runs[position]];
  Series series;
  series.name = summary.runs.size() == 1 ? summary.label : fmt::format("{}, seed {}", summary.label, run.seed);
  series.label = position == 0 ? summary.label : "";
  series.group = recipe_group(recipe);
  series.color = recipe_color(comparison, recipe);
  series.dash = dash_of(comparison, recipe) + static_cast<int>(position);
  return series;
}

double last_step(const Comparison& comparison) {
  double last = 0;
  for (const RunLog& run : comparison.logs) {
    if (!run.steps.empty()) last = std::max(last, static_cast<double>(run.steps.back().step));
  }
  return last;
}

/// Smallest and largest finite y at x >= from over all series.
std::pair<double, double> range_from(const std::vector<Series>& all, double from) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const Series& series : all) {
    for (std::size_t i = 0; i < series.curve.x.size(); ++i) {
      if (series.curve.x[i] < from || !std::isfinite(series.curve.y[i])) continue;
      low = std::min(low, series.curve.y[i]);
      high = std::max(high, series.curve.y[i]);
    }
  }
  return {low, high};
}

/// Limits of a y axis that show everything from step `from` on, with a little air.
void fit_from(Axis& y, const std::vector<Series>& series, double from) {
  const auto [low, high] = range_from(series, from);
  if (low > high) return;
  const double margin = low == high ? std::max(0.01 * std::abs(low), 1e-9) : 0.06 * (high - low);
  y.low = low - margin;
  y.high = high + margin;
}

std::string small_caption(std::string_view title, std::string_view note) {
  return fmt::format("<b>{}</b>{}{}", escape_markup(title), note.empty() ? "" : " · ", escape_markup(note));
}

Curve per_step(const RunLog& run, double StepRecord::*value) {
  Curve curve;
  for (const StepRecord& record : run.steps) {
    curve.x.push_back(static_cast<double>(record.step));
    curve.y.push_back(record.*value);
  }
  return curve;
}

bool any_finite(const Curve& curve) {
  return std::any_of(curve.y.begin(), curve.y.end(), [](double y) { return std::isfinite(y); });
}

}  // namespace

int recipe_color(const Comparison& comparison, std::size_t recipe) {
  if (comparison.recipes[recipe].is_baseline && recipe == 0) return 0;
  const std::size_t before = comparison.recipes[0].is_baseline ? 1 : 0;
  return 1 + static_cast<int>((recipe - before) % (kSeriesColors - 1));
}

std::string recipe_group(std::size_t recipe) { return fmt::format("r{}", recipe); }

std::vector<Mark> stage_marks(const Comparison& comparison) {
  std::vector<Mark> marks;
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    for (const StageRecord& change : comparison.logs[comparison.recipes[r].runs[0]].stages) {
      const auto x = static_cast<double>(change.step);
      const bool labelled = std::any_of(marks.begin(), marks.end(), [&](const Mark& mark) { return mark.x == x; });
      marks.push_back({.x = x,
                       .label = labelled ? "" : fmt::format("stage {}", change.stage),
                       .group = recipe_group(r),
                       .color = recipe_color(comparison, r)});
    }
  }
  return marks;
}

std::string figure(std::string_view caption, std::string_view drawing) {
  if (caption.empty()) return fmt::format("<figure>\n{}</figure>\n", drawing);
  return fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", caption, drawing);
}

std::string final_gap_figure(const Comparison& comparison) {
  RowPlot plot;
  plot.title = "Gap to the baseline at the end, per recipe";
  plot.width = 1040;
  plot.x = {.label = fmt::format("gap to {} in {}, %", comparison.baseline,
                                 comparison.gap_is_validation ? "validation loss" : "training loss"),
            .from_zero = true};
  for (std::size_t i = 0; i < comparison.recipes.size(); ++i) {
    const RecipeSummary& recipe = comparison.recipes[i];
    if (recipe.is_baseline || !std::isfinite(recipe.gap_percent)) continue;
    Row row{.label = recipe.label,
            .text = format_gap(recipe.gap_percent) + " %",
            .color = recipe_color(comparison, i),
            .group = recipe_group(i)};
    for (std::size_t run : recipe.runs) {
      if (recipe.runs.size() == 1) break;
      const double gap = comparison.results[run].gap_percent;
      row.marks.push_back(
          {.value = gap,
           .color = row.color,
           .group = row.group,
           .tip = fmt::format("{}, seed {}: {} %", recipe.label, comparison.results[run].seed, format_gap(gap)),
           .hollow = true});
    }
    row.marks.push_back({.value = recipe.gap_percent,
                         .color = row.color,
                         .group = row.group,
                         .tip = fmt::format("{}: {} %", recipe.label, format_gap(recipe.gap_percent))});
    plot.rows.push_back(std::move(row));
  }
  if (plot.rows.empty()) return {};
  if (std::isfinite(comparison.noise_percent)) {
    plot.band_low = -comparison.noise_percent;
    plot.band_high = comparison.noise_percent;
    plot.band_label = fmt::format("noise: ±{:.2f} %", comparison.noise_percent);
  }
  const bool several = std::any_of(comparison.recipes.begin(), comparison.recipes.end(),
                                   [](const auto& r) { return !r.is_baseline && r.runs.size() > 1; });
  return figure(small_caption("Gap at the end of training",
                              several ? "filled: mean over seeds, hollow: single seeds" : "one seed each"),
                draw_two_widths(plot));
}

std::string loss_section(const Comparison& comparison) {
  const double last = last_step(comparison);
  std::vector<Series> series;
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    for (std::size_t i = 0; i < comparison.recipes[r].runs.size(); ++i) {
      const RunLog& run = comparison.logs[comparison.recipes[r].runs[i]];
      Series line = run_series(comparison, r, i);
      line.curve = thin(loss_curve(run), kPoints);
      if (any_finite(line.curve)) series.push_back(line);
      Series points = run_series(comparison, r, i);
      points.name += ", validation";
      points.label = "";
      points.line = false;
      points.markers = true;
      points.curve = thin(validation_curve(run), kPoints);
      if (any_finite(points.curve)) series.push_back(points);
    }
  }
  if (series.empty()) return {};
  const std::vector<Mark> marks = stage_marks(comparison);
  std::string figures;
  LineChart chart{.title = "Training and validation loss over steps, all runs",
                  .height = 340,
                  .x = {.label = "step"},
                  .y = {.label = "loss, nats per token"},
                  .series = series,
                  .marks = marks};
  fit_from(chart.y, series, 0.03 * last);
  figures += figure(small_caption("Whole run", "the first 3 % of steps run off the top"), draw_two_widths(chart));

  chart.title = "Training and validation loss, last third of the run";
  chart.x.low = std::floor(2 * last / 3);
  chart.x.high = last;
  chart.y = {.label = "loss, nats per token"};
  fit_from(chart.y, series, chart.x.low);
  if (last >= 30) figures += figure(small_caption("Last third", "the same, enlarged"), draw_two_widths(chart));
  return fmt::format(
      "<section id=\"loss\"><h2>Loss</h2>\n<p>Lines: training loss, averaged over about 4 % of the run. Points: "
      "validation loss. Further seeds of a recipe are dashed.{}</p>\n<div class=\"grid\">\n{}</div></section>\n",
      marks.empty() ? "" : " Upright lines: the next stage of a recipe begins.", figures);
}

std::string gap_section(const Comparison& comparison) {
  std::vector<Series> series;
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    const RecipeSummary& recipe = comparison.recipes[r];
    if (recipe.is_baseline) continue;
    std::vector<Curve> training;
    std::vector<Curve> validation;
    for (std::size_t run : recipe.runs) {
      std::vector<const RunLog*> baselines;
      for (std::size_t i : baselines_of(comparison, run)) baselines.push_back(&comparison.logs[i]);
      if (baselines.empty()) continue;
      training.push_back(training_gap(comparison.logs[run], baselines));
      validation.push_back(validation_gap(comparison.logs[run], baselines));
    }
    const auto add = [&](const Curve& curve, bool line, bool faint, std::string name) {
      Series one = run_series(comparison, r, 0);
      one.name = std::move(name);
      one.line = line;
      one.markers = !line;
      one.faint = faint;
      one.label = line && !faint ? recipe.label : "";
      one.curve = thin(curve, kPoints);
      if (any_finite(one.curve)) series.push_back(std::move(one));
    };
    if (training.size() > 1) {
      for (const Curve& curve : training) add(curve, true, true, recipe.label);
    }
    add(mean_curve(training), true, false, recipe.label);
    add(mean_curve(validation), false, false, recipe.label + ", validation");
  }
  if (series.empty()) return {};

  LineChart chart{.title = "Gap to the baseline over training, in per cent of its loss",
                  .width = 1040,
                  .height = 380,
                  .x = {.label = "step"},
                  .y = {.label = fmt::format("gap to {}, %", comparison.baseline)},
                  .series = series,
                  .marks = stage_marks(comparison),
                  .zero_line = true};
  std::vector<const RunLog*> baselines;
  for (std::size_t run : comparison.recipes[0].runs) baselines.push_back(&comparison.logs[run]);
  const Curve noise = thin(noise_curve(baselines), kPoints);
  if (comparison.recipes[0].is_baseline && any_finite(noise)) {
    Band band{.label = "seed noise",
              .tip = fmt::format("spread of the seeds of {}", comparison.baseline),
              .x = noise.x,
              .high = noise.y};
    for (double y : noise.y) band.low.push_back(-y);
    chart.bands.push_back(std::move(band));
  }
  // Early on the losses still fall steeply and a shift of a few steps is a gap of many per cent.
  const double settled = 0.05 * last_step(comparison);
  auto [low, high] = range_from(series, settled);
  for (std::size_t i = 0; i < noise.x.size(); ++i) {
    if (noise.x[i] < settled || !std::isfinite(noise.y[i])) continue;
    low = std::min(low, -noise.y[i]);
    high = std::max(high, noise.y[i]);
  }
  low = std::min(low, 0.0);
  high = std::max(high, 0.0);
  const double margin = std::max(0.05 * (high - low), 0.01);
  chart.y.low = low - margin;
  chart.y.high = high + margin;

  std::string text = fmt::format(
      "100 (loss / loss of {} − 1) against the run of the same seed. Lines: training loss step by step, then "
      "averaged over about 4 % of the run, so the noise of single batches cancels. Points: validation loss.",
      escape_markup(comparison.baseline));
  text += chart.bands.empty() ? " Without a second seed of the baseline there is no noise band."
                              : " The grey band is what changing only the seed of the baseline does.";
  return fmt::format("<section id=\"gap\"><h2>Gap to {} over training</h2>\n<p>{}</p>\n{}</section>\n",
                     escape_markup(comparison.baseline), text, figure("", draw_two_widths(chart)));
}

std::string speed_section(const Comparison& comparison) {
  RowPlot plot{.title = "Training speed per recipe in tokens per second",
               .width = 1040,
               .x = {.label = "tokens/s", .from_zero = true}};
  double reference = kNotLogged;
  for (const RecipeSummary& recipe : comparison.recipes) {
    if (recipe.is_baseline && std::isnan(reference)) reference = recipe.tokens_per_second;
  }
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    const RecipeSummary& recipe = comparison.recipes[r];
    if (!std::isfinite(recipe.tokens_per_second)) continue;
    Row row{.label = recipe.label,
            .text = format_rate(recipe.tokens_per_second),
            .color = recipe_color(comparison, r),
            .group = recipe_group(r),
            .bar = recipe.tokens_per_second};
    if (std::isfinite(reference) && !recipe.is_baseline) {
      row.text += fmt::format("  ({:.2f}×)", recipe.tokens_per_second / reference);
    }
    plot.rows.push_back(std::move(row));
  }
  if (plot.rows.empty()) return {};
  return fmt::format(
      "<section id=\"speed\"><h2>Speed</h2>\n<p>Median over the run without its first tenth, mean over "
      "seeds{}. Which arithmetic each product ran on is listed under the settings.</p>\n{}</section>\n",
      std::isfinite(reference) ? fmt::format("; in brackets the ratio to {}", escape_markup(comparison.baseline))
                               : std::string(),
      figure("", draw_two_widths(plot)));
}

std::string optimization_section(const Comparison& comparison) {
  LineChart norms{.title = "Gradient norm over steps",
                  .height = 260,
                  .x = {.label = "step"},
                  .y = {.label = "gradient norm", .logarithmic = true},
                  .marks = stage_marks(comparison)};
  LineChart rates{.title = "Learning rate over steps",
                  .height = 260,
                  .x = {.label = "step"},
                  .y = {.label = "learning rate", .from_zero = true},
                  .marks = stage_marks(comparison)};
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    for (std::size_t i = 0; i < comparison.recipes[r].runs.size(); ++i) {
      const RunLog& run = comparison.logs[comparison.recipes[r].runs[i]];
      Series series = run_series(comparison, r, i);
      series.curve = per_step(run, &StepRecord::grad_norm);
      series.curve.y = smooth(series.curve.y, smoothing_half_width(series.curve.y.size()));
      series.curve = thin(series.curve, kPoints);
      if (any_finite(series.curve)) norms.series.push_back(series);
      series.curve = thin(per_step(run, &StepRecord::learning_rate), kPoints);
      if (any_finite(series.curve)) rates.series.push_back(series);
    }
  }
  std::string figures;
  if (!norms.series.empty())
    figures += figure(small_caption("Gradient norm", "before clipping, smoothed"), draw_two_widths(norms));
  if (!rates.series.empty()) figures += figure(small_caption("Learning rate", ""), draw_two_widths(rates));
  if (figures.empty()) return {};
  return "<section id=\"optimization\"><h2>Optimization</h2>\n<div class=\"grid\">\n" + figures + "</div></section>\n";
}

}  // namespace nibble
