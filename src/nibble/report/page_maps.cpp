#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "nibble/io/format.h"
#include "nibble/report/page_charts.h"

namespace nibble {
namespace {

// Cells of a recipe's map, so that a page of many recipes stays light.
constexpr std::size_t kCells = 6000;
constexpr std::size_t kMostColumns = 36;
// FP8's SNR is pale, so that better formats don't take the contrast from FP4's 15 to 22 dB.
constexpr double kPaleDb = 32;

/// A figure that the maps can show.
struct MapFigure {
  const char* key;
  const char* name;
  const char* unit;
  double factor;      // from the logged figure to the unit
  bool high_is_pale;  // large values are good
  double OperandQuality::*operand;
  double ProductFigures::*product;  // in its place, of the three products
};

constexpr std::array<MapFigure, 5> kFigures = {{
    {"snr", "SNR", "dB", 1, true, &OperandQuality::snr_db, nullptr},
    {"underflow", "underflow", "%", 100, false, &OperandQuality::underflow, nullptr},
    {"clipped", "clipped", "%", 100, false, &OperandQuality::clipped, nullptr},
    {"bias", "bias", "% of mean |x|", 100, false, &OperandQuality::bias, nullptr},
    {"cosine", "cosine of the products", "", 1, true, nullptr, &ProductFigures::cosine},
}};

std::size_t panels_of(const MapFigure& figure) { return figure.product ? kProducts : kOperands; }

/// The figure of a layer at a measurement: +infinity for an exact operand's SNR, NaN where it was not logged. A bias
/// counts by its size.
double value_of(const LayerQuality& layer, const MapFigure& figure, std::size_t panel) {
  if (figure.product) return figure.factor * layer.products[panel].*figure.product;
  const OperandQuality& operand = layer.quality[panel];
  const double value = figure.factor * operand.*figure.operand;
  return figure.operand == &OperandQuality::bias ? std::abs(value) : value;
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool empty() const { return low > high; }
  /// The ends of the colour scale.
  double pale(const MapFigure& figure) const {
    if (!figure.high_is_pale) return 0;
    return figure.operand == &OperandQuality::snr_db ? std::max(low, std::min(high, kPaleDb)) : high;
  }
  double strong(const MapFigure& figure) const { return figure.high_is_pale ? low : high; }
};

/// Over all runs that a map is drawn of, so that one scale holds for all maps.
Range range_of(const std::vector<const RunLog*>& runs, const MapFigure& figure) {
  Range range;
  for (const RunLog* run : runs) {
    for (const QualityPoint& point : run->quality) {
      for (const LayerQuality& layer : point.layers) {
        for (std::size_t p = 0; p < panels_of(figure); ++p) {
          const double value = value_of(layer, figure, p);
          if (!std::isfinite(value)) continue;
          range.low = std::min(range.low, value);
          range.high = std::max(range.high, value);
        }
      }
    }
  }
  return range;
}

/// The measurements that become columns: evenly spaced, the first and the last included.
std::vector<const QualityPoint*> columns_of(const RunLog& run) {
  std::vector<const QualityPoint*> points;
  for (const QualityPoint& point : run.quality) {
    if (!point.layers.empty() && (points.empty() || points.front()->layers.size() == point.layers.size())) {
      points.push_back(&point);
    }
  }
  if (points.empty()) return points;
  const std::size_t most = std::clamp<std::size_t>(kCells / (points[0]->layers.size() * kOperands), 2, kMostColumns);
  if (points.size() <= most) return points;
  std::vector<const QualityPoint*> chosen;
  for (std::size_t i = 0; i < most; ++i) chosen.push_back(points[i * (points.size() - 1) / (most - 1)]);
  return chosen;
}

std::string short_layer(const std::string& name) { return name.starts_with("layers.") ? name.substr(7) : name; }

// Two characters a value, the first the higher digit. The letters left out keep chance from spelling words.
constexpr std::string_view kDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZbcdefghijklmnopqrsuvwxyz";
constexpr int kNoValue = 0;
constexpr int kExactValue = 1;
constexpr int kFirstValue = 2;

std::string encode(double value, const Range& range) {
  const int base = static_cast<int>(kDigits.size());
  int code = kNoValue;
  if (std::isinf(value)) code = kExactValue;
  if (std::isfinite(value)) {
    const double share = range.high > range.low ? (value - range.low) / (range.high - range.low) : 0;
    code = kFirstValue + static_cast<int>(std::lround(share * (base * base - 1 - kFirstValue)));
  }
  return {kDigits[static_cast<std::size_t>(code / base)], kDigits[static_cast<std::size_t>(code % base)]};
}

/// The data of all figures for the page's script: of each its range and its values by panel, row and column.
std::string script_data(const std::vector<const QualityPoint*>& columns,
                        const std::array<Range, kFigures.size()>& ranges) {
  nlohmann::ordered_json figures = nlohmann::ordered_json::object();
  for (std::size_t f = 0; f < kFigures.size(); ++f) {
    if (ranges[f].empty()) continue;
    std::string values;
    for (std::size_t p = 0; p < panels_of(kFigures[f]); ++p) {
      for (std::size_t row = 0; row < columns[0]->layers.size(); ++row) {
        for (const QualityPoint* point : columns)
          values += encode(value_of(point->layers[row], kFigures[f], p), ranges[f]);
      }
    }
    std::vector<std::string> panels(kOperandShortNames.begin(), kOperandShortNames.end());
    if (kFigures[f].product) panels.assign(kProductNames.begin(), kProductNames.end());
    figures[kFigures[f].key] = {{"low", ranges[f].low},
                                {"high", ranges[f].high},
                                {"unit", kFigures[f].unit},
                                {"pale", ranges[f].pale(kFigures[f])},
                                {"strong", ranges[f].strong(kFigures[f])},
                                {"panels", panels},
                                {"values", values}};
  }
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  nlohmann::ordered_json steps = nlohmann::ordered_json::array();
  for (const LayerQuality& layer : columns[0]->layers) rows.push_back(layer.layer);
  for (const QualityPoint* point : columns) steps.push_back(point->step);
  std::string text =
      nlohmann::ordered_json{{"digits", kDigits}, {"rows", rows}, {"steps", steps}, {"figures", figures}}.dump(
          -1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  // Names come from a file: nothing in them may end the script element.
  std::string safe;
  for (char c : text) safe += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return "<script type=\"application/json\">" + safe + "</script>\n";
}

std::string time_map(const std::vector<const QualityPoint*>& columns, const std::string& label, const Range& range,
                     const std::array<Range, kFigures.size()>& ranges) {
  TimeMap map;
  map.title = fmt::format("Signal-to-noise ratio of {} per layer and operand over steps", label);
  map.pale = range.pale(kFigures[0]);
  map.strong = range.strong(kFigures[0]);
  for (const LayerQuality& layer : columns[0]->layers) map.rows.push_back(short_layer(layer.layer));
  for (const QualityPoint* point : columns) map.steps.push_back(point->step);
  for (std::size_t o = 0; o < kOperands; ++o) {
    TimeMap::Panel panel{kOperandShortNames[o], {}};
    for (std::size_t row = 0; row < map.rows.size(); ++row) {
      std::vector<double> values;
      values.reserve(columns.size());
      for (const QualityPoint* point : columns) values.push_back(value_of(point->layers[row], kFigures[0], o));
      panel.values.push_back(std::move(values));
    }
    map.panels.push_back(std::move(panel));
  }
  const std::string wide = draw(map);
  map.width = 380;
  map.panels_per_line = 2;
  return "<div class=\"wide-only\">" + wide + "</div><div class=\"narrow\">" + draw(map) + "</div>\n" +
         script_data(columns, ranges);
}

/// The figures themselves at one measurement, folded away.
std::string numbers(const QualityPoint& point, const std::string& label, const Range& range) {
  HeatMap map;
  map.title = fmt::format("Signal-to-noise ratio in dB of {} per layer and operand at step {}", label, point.step);
  map.pale = range.pale(kFigures[0]);
  map.strong = range.strong(kFigures[0]);
  std::vector<std::size_t> shown;
  for (std::size_t o = 0; o < kOperands; ++o) {
    if (std::any_of(point.layers.begin(), point.layers.end(),
                    [o](const LayerQuality& layer) { return !std::isnan(layer.quality[o].snr_db); })) {
      shown.push_back(o);
      map.columns.emplace_back(kOperandShortNames[o]);
    }
  }
  for (const LayerQuality& layer : point.layers) {
    map.rows.push_back(short_layer(layer.layer));
    std::vector<HeatCell> cells;
    for (std::size_t o : shown) {
      const OperandQuality& q = layer.quality[o];
      cells.push_back({q.snr_db, format_decibel(q.snr_db),
                       fmt::format("{} {}: {} dB, underflow {}, clamped {}, clipped {}", layer.layer, kOperandNames[o],
                                   format_decibel(q.snr_db), format_percent(q.underflow), format_percent(q.clamped),
                                   format_percent(q.clipped))});
    }
    map.cells.push_back(std::move(cells));
  }
  return fmt::format("<details><summary>SNR in numbers <span>step {}</span></summary><div>{}</div></details>\n",
                     format_integer(point.step), draw(map));
}

}  // namespace

std::string layer_maps(const Comparison& comparison) {
  std::vector<const RunLog*> runs;
  std::vector<std::size_t> recipes;
  for (std::size_t r = 0; r < comparison.recipes.size(); ++r) {
    const RunLog& run = comparison.logs[comparison.recipes[r].runs[0]];
    if (!is_quantized(comparison.recipes[r]) || columns_of(run).empty()) continue;
    runs.push_back(&run);
    recipes.push_back(r);
  }
  std::array<Range, kFigures.size()> ranges;
  for (std::size_t f = 0; f < kFigures.size(); ++f) ranges[f] = range_of(runs, kFigures[f]);
  if (ranges[0].empty()) return {};

  std::string choices;
  for (std::size_t f = 0; f < kFigures.size(); ++f) {
    if (ranges[f].empty()) continue;
    choices += fmt::format("<span class=\"item\" data-choice=\"{}\">{}</span>\n", kFigures[f].key, kFigures[f].name);
  }
  std::string figures;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RecipeSummary& recipe = comparison.recipes[recipes[i]];
    const std::vector<const QualityPoint*> columns = columns_of(*runs[i]);
    const std::string caption = fmt::format("<b class=\"k{}\">{}</b> · seed {}", recipe_color(comparison, recipes[i]),
                                            escape_markup(recipe.label), runs[i]->seed);
    figures += figure(caption, time_map(columns, recipe.label, ranges[0], ranges) +
                                   numbers(*columns.back(), recipe.label, ranges[0]));
  }
  return fmt::format(
      "<h3>By layer, over the run</h3>\n<p class=\"note\">A row a layer, a column a measurement, a panel an operand. "
      "The stronger the colour, the worse: <span class=\"map-range\">from {} dB, pale, down to {} dB</span>. One scale "
      "for all maps; no colour where nothing is lost or nothing was logged.</p>\n<div class=\"choose\">\n{}</div>\n"
      "<div class=\"stack\">\n{}</div>\n",
      format_decibel(ranges[0].pale(kFigures[0])), format_decibel(ranges[0].strong(kFigures[0])), choices, figures);
}

}  // namespace nibble
