#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numbers>

#include "nibble/io/format.h"
#include "nibble/report/page_charts.h"

namespace nibble {
namespace {

// Alarms that are shown before those of further runs are folded away.
constexpr std::size_t kOpenAlarms = 12;

using Figure = std::function<double(const QualityPoint&)>;

/// Adds a figure of the measurements over steps for every recipe that has it, mean over its seeds.
void add_curves(const Comparison& comparison, const Figure& figure_of, LineChart& chart) {
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    const RecipeSummary& recipe = comparison.recipes[r];
    std::vector<Curve> curves;
    for (std::size_t run : recipe.runs) {
      Curve curve;
      for (const QualityPoint& point : comparison.logs[run].quality) {
        curve.x.push_back(static_cast<double>(point.step));
        curve.y.push_back(figure_of(point));
      }
      curves.push_back(std::move(curve));
    }
    const Curve mean = thin(mean_curve(curves), 240);
    if (std::none_of(mean.y.begin(), mean.y.end(), [](double y) { return std::isfinite(y); })) continue;
    chart.series.push_back({.name = recipe.label,
                            .label = recipe.label,
                            .group = recipe_group(r),
                            .color = recipe_color(comparison, r),
                            .markers = mean.x.size() <= 12,
                            .curve = mean});
  }
}

std::string chart_figure(const LineChart& chart, std::string_view caption) {
  return chart.series.empty() ? std::string() : figure(caption, draw_two_widths(chart));
}

std::string alarm_rows(const std::vector<AlarmRecord>& alarms) {
  std::string rows;
  for (const AlarmRecord& alarm : alarms) {
    rows += fmt::format("<tr><td>{}</td><td class=\"text wrap\">{}</td></tr>\n", format_integer(alarm.step),
                        escape_markup(alarm.sentence));
  }
  return "<div class=\"scroll\"><table><thead><tr><th>step</th><th class=\"text\">alarm</th></tr></thead>\n<tbody>\n" +
         rows + "</tbody></table></div>\n";
}

}  // namespace

std::string product_figures(const Comparison& comparison) {
  const std::vector<Mark> marks = stage_marks(comparison);
  LineChart noise{.title = "Gradient over quantization noise over steps",
                  .height = 280,
                  .x = {.label = "step"},
                  .y = {.label = "|dW| / |Q(dW) − dW|", .logarithmic = true},
                  .levels = {{.value = std::numbers::sqrt3, .label = "√3: below, training stalls"}},
                  .marks = marks};
  add_curves(
      comparison, [](const QualityPoint& point) { return point.gradient_to_noise; }, noise);
  LineChart oscillation{.title = "Oscillation of the quantized weights over steps",
                        .height = 280,
                        .x = {.label = "step"},
                        .y = {.label = "Σ|ΔQ(w)| / Σ|Δw|", .from_zero = true},
                        .marks = marks};
  add_curves(
      comparison, [](const QualityPoint& point) { return point.total.oscillation; }, oscillation);
  const std::string pair =
      chart_figure(noise, "<b>Gradient to noise</b> · weight gradients of all quantized layers") +
      chart_figure(oscillation, "<b>Oscillation</b> · quantized weights against weights, step to step");

  std::string products;
  constexpr std::array<const char*, kProducts> kMeanings = {"outputs", "input gradients", "weight gradients"};
  for (std::size_t p = 0; p < kProducts; ++p) {
    LineChart chart{.title = fmt::format("Cosine between computed and exact {} over steps", kProductNames[p]),
                    .width = 350,
                    .height = 220,
                    .x = {.label = "step"},
                    .y = {.label = "cosine"}};
    add_curves(
        comparison, [p](const QualityPoint& point) { return point.total.products[p].cosine; }, chart);
    if (chart.series.empty()) continue;
    products += figure(fmt::format("<b>{}</b><small>{}</small>", kProductNames[p], kMeanings[p]), draw(chart));
  }
  std::string out;
  if (!products.empty()) {
    out +=
        "<h3>The products</h3>\n<p class=\"note\">Cosine between a product as computed and the same product of "
        "unquantized operands, over all layers.</p>\n<div class=\"grid small\">\n" +
        products + "</div>\n";
  }
  if (!pair.empty()) {
    out +=
        "<h3>Gradients and weights</h3>\n<p class=\"note\">FP4 training stops improving where the weight gradient "
        "is less than √3 times its own quantization noise (FP4 All the Way, 2025). A quantized weight that moves "
        "much more than the weight flips between two grid points.</p>\n<div class=\"grid\">\n" +
        pair + "</div>\n";
  }
  return out;
}

std::string alarm_section(const Comparison& comparison) {
  std::string runs;
  std::size_t shown = 0;
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    for (std::size_t run : comparison.recipes[r].runs) {
      const RunLog& log = comparison.logs[run];
      if (log.alarms.empty()) continue;
      const std::vector<AlarmRecord>& alarms = log.alarms;
      shown += alarms.size();
      runs += fmt::format(
          "<details{}><summary><b class=\"k{}\">{}</b> <span>{} {}</span></summary><div>{}</div></details>\n",
          shown <= kOpenAlarms ? " open=\"open\"" : "", recipe_color(comparison, r), escape_markup(log.name),
          alarms.size(), alarms.size() == 1 ? "alarm" : "alarms", alarm_rows(alarms));
    }
  }
  if (runs.empty()) return {};
  return "<section id=\"alarms\"><h2>Alarms</h2>\n<p>What crossed a threshold while training; each is told once until "
         "it clears.</p>\n" +
         runs + "</section>\n";
}

}  // namespace nibble
