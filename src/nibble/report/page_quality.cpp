#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "nibble/io/format.h"
#include "nibble/report/page_charts.h"

namespace nibble {
namespace {

// What an operand is, in a few words.
constexpr std::array<const char*, kOperands> kMeanings = {"activations, forward",
                                                          "weights, forward",
                                                          "output gradient, for the input gradient",
                                                          "weights, for the input gradient",
                                                          "output gradient, for the weight gradient",
                                                          "activations, for the weight gradient"};

/// A figure of one operand over steps, mean over the recipe's seeds.
Curve over_steps(const Comparison& comparison, const RecipeSummary& recipe, std::size_t operand,
                 double OperandQuality::*figure_of) {
  std::vector<Curve> curves;
  for (std::size_t run : recipe.runs) {
    Curve curve;
    for (const QualityPoint& point : comparison.logs[run].quality) {
      curve.x.push_back(static_cast<double>(point.step));
      curve.y.push_back(point.total.quality[operand].*figure_of);
    }
    curves.push_back(std::move(curve));
  }
  return mean_curve(curves);
}

bool any_finite(const std::vector<double>& values) {
  return std::any_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

std::string operand_caption(std::size_t operand, std::string_view note) {
  return fmt::format("<b>{}</b> <code>{}</code>{}<small>{}</small>", kOperandShortNames[operand],
                     kOperandNames[operand], note, kMeanings[operand]);
}

std::string snr_figures(const Comparison& comparison) {
  std::array<LineChart, kOperands> charts;
  std::array<std::vector<std::string>, kOperands> exact;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (std::size_t o = 0; o < kOperands; ++o) {
    charts[o] = {.title = fmt::format("Signal-to-noise ratio of {} over steps", kOperandNames[o]),
                 .width = 350,
                 .height = 220,
                 .x = {.label = "step"},
                 .y = {.label = "SNR, dB"}};
    for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
      const RecipeSummary& recipe = comparison.recipes[r];
      if (!is_quantized(recipe)) continue;
      const Curve curve = over_steps(comparison, recipe, o, &OperandQuality::snr_db);
      const auto is_exact = [](double y) { return std::isinf(y); };
      if (!any_finite(curve.y)) {
        if (std::any_of(curve.y.begin(), curve.y.end(), is_exact)) exact[o].push_back(recipe.label);
        continue;
      }
      for (double y : curve.y) {
        if (!std::isfinite(y)) continue;
        low = std::min(low, y);
        high = std::max(high, y);
      }
      charts[o].series.push_back({.name = recipe.label,
                                  .label = recipe.label,
                                  .group = recipe_group(r),
                                  .color = recipe_color(comparison, r),
                                  .markers = curve.x.size() <= 12,
                                  .curve = thin(curve, 160)});
    }
  }
  std::string figures;
  for (std::size_t o = 0; o < kOperands; ++o) {
    std::string note;
    for (const std::string& label : exact[o]) note += (note.empty() ? "" : ", ") + escape_markup(label);
    if (!note.empty()) note = " · exact in " + note;
    if (charts[o].series.empty()) {
      if (!note.empty()) figures += figure(operand_caption(o, note), "");
      continue;
    }
    const double margin = std::max(0.05 * (high - low), 0.5);
    charts[o].y.low = low - margin;
    charts[o].y.high = high + margin;
    figures += figure(operand_caption(o, note), draw(charts[o]));
  }
  return figures;
}

/// Mean over the run as a mark, the range over its intervals as a line behind it.
std::string share_figure(const Comparison& comparison, double OperandQuality::*share, const char* title,
                         const char* note) {
  RowPlot plot{.title = title, .width = 520, .x = {.label = "% of elements", .from_zero = true}, .lanes = true};
  for (std::size_t o = 0; o < kOperands; ++o) {
    Row row{.label = kOperandShortNames[o]};
    for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
      const RecipeSummary& recipe = comparison.recipes[r];
      const double mean = recipe.quality[o].*share;
      if (!std::isfinite(mean) || std::isinf(recipe.quality[o].snr_db)) continue;
      RowMark mark{.value = 100 * mean,
                   .color = recipe_color(comparison, r),
                   .group = recipe_group(r),
                   .tip = fmt::format("{}, {}: {}", recipe.label, kOperandNames[o], format_percent(mean))};
      for (double y : over_steps(comparison, recipe, o, share).y) {
        if (!std::isfinite(y)) continue;
        mark.low = std::isnan(mark.low) ? 100 * y : std::min(mark.low, 100 * y);
        mark.high = std::isnan(mark.high) ? 100 * y : std::max(mark.high, 100 * y);
      }
      row.marks.push_back(std::move(mark));
    }
    const bool nothing = std::all_of(row.marks.begin(), row.marks.end(), [](const RowMark& m) { return m.value == 0; });
    if (!nothing) plot.rows.push_back(std::move(row));
  }
  if (plot.rows.empty()) return {};
  return figure(fmt::format("<b>{}</b> · {}", title, note), draw_two_widths(plot));
}

}  // namespace

bool is_quantized(const RecipeSummary& recipe) {
  return std::any_of(recipe.quality.begin(), recipe.quality.end(),
                     [](const OperandQuality& operand) { return operand.snr_db < kFullPrecisionDb; });
}

std::string quality_section(const Comparison& comparison) {
  const std::string snr = snr_figures(comparison);
  const std::string shares =
      share_figure(comparison, &OperandQuality::underflow, "Underflow", "nonzero elements that became zero") +
      share_figure(comparison, &OperandQuality::clamped, "Clamped", "elements that the clamp changed") +
      share_figure(comparison, &OperandQuality::clipped, "Clipped", "elements beyond the largest value of their block");
  const std::string products = product_figures(comparison);
  const std::string maps = layer_maps(comparison);
  if (snr.empty() && shares.empty() && products.empty() && maps.empty()) return {};
  std::string left_out;
  for (const RecipeSummary& recipe : comparison.recipes) {
    if (!is_quantized(recipe)) left_out += (left_out.empty() ? "" : ", ") + escape_markup(recipe.label);
  }
  if (!left_out.empty()) left_out = fmt::format(" Left out, as they round to nothing less than BF16: {}.", left_out);
  std::string out = fmt::format(
      "<section id=\"quality\"><h2>Quantization quality</h2>\n<p>How well each quantized operand of the three products "
      "represents its source: signal-to-noise ratio 10 log₁₀(Σx² / Σ(q − x)²), over all layers. 6 dB more is half the "
      "error.{}</p>\n<div class=\"grid small\">\n{}</div>\n",
      left_out, snr);
  if (!shares.empty()) {
    out +=
        "<h3>What is lost at the ends of the range</h3>\n<p class=\"note\">Points: mean over the run. Lines: range "
        "over "
        "its intervals. Operands that lose nothing are left out.</p>\n<div class=\"grid\">\n" +
        shares + "</div>\n";
  }
  return out + products + maps + "</section>\n";
}

}  // namespace nibble
