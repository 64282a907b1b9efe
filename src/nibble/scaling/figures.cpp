#include "nibble/scaling/figures.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "nibble/io/format.h"
#include "nibble/report/page_assets.h"
#include "nibble/report/page_charts.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr int kCurvePoints = 60;

/// Position of a recipe among the drawn ones; the baseline is 0, -1 is one without a fit.
int recipe_index(const ScalingFit& fit, const std::string& recipe) {
  if (recipe == fit.baseline) return 0;
  for (std::size_t i = 0; i < fit.recipes.size(); ++i) {
    if (fit.recipes[i].recipe == recipe) return static_cast<int>(i) + 1;
  }
  return -1;
}

int color_of(int index) { return index == 0 ? 0 : 1 + (index - 1) % (kSeriesColors - 1); }

Curve fitted_curve(const ScalingLaw& law, const Efficiency& efficiency, double params, const Curve& points) {
  const auto [low, high] = std::minmax_element(points.x.begin(), points.x.end());
  Curve curve;
  for (int i = 0; i <= kCurvePoints; ++i) {
    const double ratio = *low * std::pow(*high / *low, static_cast<double>(i) / kCurvePoints);
    curve.x.push_back(ratio);
    curve.y.push_back(predict_loss(law, params, ratio * params, efficiency));
    if (*low == *high) break;
  }
  return curve;
}

std::string cell(const std::string& text) { return "<td>" + escape_markup(text) + "</td>"; }

std::string table(const std::string& head, const std::string& rows) {
  return "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead>\n<tbody>\n" + rows +
         "</tbody></table></div>\n";
}

std::string constants_table(const ScalingFit& fit) {
  std::string rows;
  const auto constants = law_constants(fit.law);
  for (std::size_t i = 0; i < constants.size(); ++i) {
    rows += fmt::format("<tr><th class=\"text\">{}</th>", kLawConstantNames[i]) +
            cell(fmt::format("{:.6g}", constants[i])) +
            cell(fit.intervals[i].known() ? fmt::format("{:.4g} to {:.4g}", fit.intervals[i].low, fit.intervals[i].high)
                                          : "–") +
            "</tr>\n";
  }
  return table("<th class=\"text\">constant</th><th>value</th><th>95 % interval</th>", rows);
}

std::string recipes_table(const ScalingFit& fit) {
  std::string rows;
  for (std::size_t i = 0; i < fit.recipes.size(); ++i) {
    const RecipeFit& recipe = fit.recipes[i];
    rows += fmt::format("<tr><th class=\"text\"><span class=\"swatch k{}\"></span>{}</th>",
                        color_of(static_cast<int>(i) + 1), escape_markup(recipe.recipe)) +
            cell(recipe.passes == Passes::BackwardOnly ? "1" : fmt::format("{:#.4g}", recipe.efficiency.n)) +
            cell(format_efficiency_interval(recipe.n)) +
            cell(recipe.passes == Passes::ForwardOnly ? "1" : fmt::format("{:#.4g}", recipe.efficiency.d)) +
            cell(format_efficiency_interval(recipe.d)) + cell(format_integer(recipe.points)) +
            cell(format_percent(recipe.rms)) + "</tr>\n";
  }
  return table(
      "<th class=\"text\">recipe</th><th>effN</th><th>95 %</th><th>effD</th><th>95 "
      "%</th><th>runs</th><th>residual</th>",
      rows);
}

std::string legend(const ScalingFit& fit) {
  const auto item = [](int index, const std::string& name) {
    return fmt::format(
        "<span class=\"item\" data-series=\"s{}\"><span class=\"swatch k{}\"></span><span>{}</span></span>\n", index,
        color_of(index), escape_markup(name));
  };
  std::string out = "<div class=\"legend\">\n" + item(0, fit.baseline);
  for (std::size_t i = 0; i < fit.recipes.size(); ++i) out += item(static_cast<int>(i) + 1, fit.recipes[i].recipe);
  return out + "</div>\n";
}

std::string maps_section(const ScalingFit& fit, const std::vector<Precision>& precisions) {
  std::string figures;
  for (const RecipeFit& recipe : fit.recipes) {
    if (recipe.passes != Passes::Both) continue;
    const PrecisionMap map = map_precisions(fit.law, recipe.efficiency, precisions, map_params(), map_ratios());
    figures += figure(fmt::format("<b>{}</b><small>rows: N, columns: D/N</small>", escape_markup(recipe.recipe)),
                      draw(precision_chart(map, recipe.recipe)));
  }
  if (figures.empty()) return {};
  std::string speeds;
  for (const Precision& p : precisions) {
    speeds +=
        fmt::format("{}{} {:.3g}/{:.3g}/{:.3g}", speeds.empty() ? "" : ", ", p.name, p.forward, p.backward, p.training);
  }
  return fmt::format(
      "<section id=\"precision\"><h2>Best precision</h2>\n<p>The precision of forward:backward with the least loss for "
      "a budget that trains N parameters on D tokens in the reference precision: a faster forward pass allows a larger "
      "model, a faster step more tokens. Speed-ups (forward/backward/step): {}.</p>\n<div class=\"maps\">\n{}</div>"
      "</section>\n",
      escape_markup(speeds), figures);
}

}  // namespace

std::string format_efficiency_interval(const Interval& interval) {
  if (!interval.known()) return "-";
  const auto bound = [](double value) {
    if (value < 1.01 * kLeastEfficiency) return std::string("0");
    if (value > 0.99 / kLeastEfficiency) return std::string("inf");
    return fmt::format("{:#.3g}", value);
  };
  return bound(interval.low) + " to " + bound(interval.high);
}

LineChart loss_chart(const ScalingFit& fit, const std::vector<LossPoint>& points) {
  LineChart chart;
  chart.title = "Validation loss against tokens per parameter";
  chart.width = 1000;
  chart.height = 560;
  chart.x = {.label = "D/N", .logarithmic = true};
  chart.y = {.label = "validation loss"};
  std::map<std::pair<int, double>, Curve> groups;  // by recipe and N
  for (const LossPoint& point : points) {
    const int index = recipe_index(fit, point.recipe);
    if (index < 0) continue;
    Curve& curve = groups[{index, point.params}];
    curve.x.push_back(point.tokens / point.params);
    curve.y.push_back(point.loss);
  }
  for (const auto& [key, observed] : groups) {
    const auto& [index, params] = key;
    const RecipeFit* recipe = index == 0 ? nullptr : &fit.recipes[static_cast<std::size_t>(index) - 1];
    const std::string size = format_count(params);
    Series series;
    series.name = fmt::format("{}, {}", recipe == nullptr ? fit.baseline : recipe->recipe, size);
    series.group = fmt::format("s{}", index);
    series.color = color_of(index);
    series.dash = index == 0 ? 0 : (index - 1) / (kSeriesColors - 1);
    Series fitted = series;
    fitted.label = index == 0 ? size : "";
    fitted.curve = fitted_curve(fit.law, recipe == nullptr ? Efficiency{} : recipe->efficiency, params, observed);
    series.line = false;
    series.markers = true;
    series.curve = observed;
    chart.series.push_back(std::move(fitted));
    chart.series.push_back(std::move(series));
  }
  return chart;
}

HeatMap precision_chart(const PrecisionMap& map, const std::string& recipe) {
  HeatMap chart;
  chart.title = fmt::format("Best precision for {} by model size (rows) and tokens per parameter (columns)", recipe);
  for (const double ratio : map.ratios) chart.columns.push_back(fmt::format("{:g}", ratio));
  chart.pale = 0;
  chart.strong = std::max<double>(1, static_cast<double>(map.precisions.size()) - 1);
  for (std::size_t r = 0; r < map.cells.size(); ++r) {
    chart.rows.push_back(format_count(map.params[r]));
    std::vector<HeatCell>& row = chart.cells.emplace_back();
    for (std::size_t c = 0; c < map.cells[r].size(); ++c) {
      const PrecisionMap::Cell& from = map.cells[r][c];
      HeatCell cell;
      cell.value = static_cast<double>(from.best);
      for (const char letter : map.precisions[from.best].name) {
        if (letter == ':' || (letter >= '0' && letter <= '9')) cell.text += letter;
      }
      cell.tip = fmt::format("N {}, D/N {:g}:", chart.rows.back(), map.ratios[c]);
      for (std::size_t p = 0; p < from.losses.size(); ++p) {
        cell.tip += fmt::format("{} {} {}", p == 0 ? "" : ",", map.precisions[p].name, format_loss(from.losses[p]));
      }
      row.push_back(std::move(cell));
    }
  }
  return chart;
}

std::string standalone_svg(const std::string& drawing) {
  const auto end_of_tag = drawing.find('>');
  require(drawing.starts_with("<svg") && end_of_tag != std::string::npos, "not a drawing: {}", drawing.substr(0, 40));
  return "<svg xmlns=\"http://www.w3.org/2000/svg\"" + drawing.substr(4, end_of_tag - 3) + "\n<style>" +
         std::string(page_style()) + ":root { font-family: system-ui, sans-serif; }</style>" +
         drawing.substr(end_of_tag + 1);
}

std::string scaling_page(const ScalingFit& fit, const std::vector<LossPoint>& points,
                         const std::vector<Precision>& precisions) {
  std::string body = fmt::format(
      "<header><p class=\"kicker\">nibble scaling law{}</p>\n<h1>L(N, D) = (A / (N effN)<sup>α</sup> + B / (D "
      "effD)<sup>β</sup>)<sup>γ</sup> + E</h1>\n<p class=\"verdict\">{} runs of {}; typical residual "
      "{}.{}</p></header>\n",
      fit.title.empty() ? "" : " · <b>" + escape_markup(fit.title) + "</b>", fit.points, escape_markup(fit.baseline),
      format_percent(fit.rms),
      fit.bootstrap > 0 ? fmt::format(" Intervals: 95 % of {} bootstrap resamples.", fit.bootstrap) : "");
  body += "<section id=\"law\"><h2>Constants</h2>\n" + constants_table(fit) +
          "<p class=\"note\">The six are strongly correlated: intervals of single constants are wide where the curve "
          "itself is well known.</p></section>\n";
  if (!fit.recipes.empty()) {
    body +=
        "<section id=\"recipes\"><h2>Recipes</h2>\n<p>A recipe learns as a model of N effN parameters would from D "
        "effD tokens.</p>\n" +
        recipes_table(fit) + "</section>\n";
  }
  body += legend(fit) + "<section id=\"loss\"><h2>Losses and fit</h2>\n" +
          figure("Points: runs. Lines: the fitted law, one a model size.", draw_two_widths(loss_chart(fit, points))) +
          "</section>\n" + maps_section(fit, precisions);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\"/>\n<title>Scaling law · "
      "nibble</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}"
      "<footer>Written by nibble scaling fit; this page needs no network.</footer>\n</main>\n<script>{}</script>\n"
      "</body>\n</html>\n",
      page_style(), body, page_script());
}

}  // namespace nibble
