// Plots as SVG text: line charts with bands, rows of dots and bars, heat maps, maps over time.
//
// Colours, type and line styles come from the page's style sheet (page_assets.h): shapes carry classes, series
// colours are the classes k0 ... k7 (k0 is the neutral ink for a baseline), so one drawing serves light and dark.
// Every drawing is complete without script; data-* attributes let the page's script read values back from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/report/curves.h"

namespace nibble {

/// Number of series colours; later series begin again with another dash pattern.
inline constexpr int kSeriesColors = 8;

/// Text for element content and attribute values: & < > " ' as entities, control characters dropped.
std::string escape_markup(std::string_view text);

struct Axis {
  std::string label{};
  bool logarithmic = false;  ///< values that are not positive are left out
  bool from_zero = false;    ///< the range includes zero
  double low = kNotLogged;   ///< NaN: from the data
  double high = kNotLogged;
};

struct Series {
  std::string name{};   ///< as the read-out names it
  std::string label{};  ///< written beside the last point; empty: none
  std::string group{};  ///< what the page's legend switches on and off together
  int color = 0;        ///< 0 ... kSeriesColors - 1
  int dash = 0;         ///< 0 solid, 1 dashed, 2 dotted, 3 dash-dot
  bool line = true;
  bool markers = false;
  bool faint = false;  ///< thin and pale, for the single runs behind a mean
  Curve curve{};
};

struct Band {
  std::string label{};  ///< written at the right end; empty: none
  std::string tip{};    ///< shown on hovering
  std::vector<double> x{}, low{}, high{};
};

/// A value of y that curves are judged by: a dashed line across the drawing.
struct Level {
  double value = kNotLogged;
  std::string label{};  ///< written above its left end
};

/// Something that happened at an x: a thin line from top to bottom.
struct Mark {
  double x = kNotLogged;
  std::string label{};  ///< written at its top
  std::string group{};
  int color = 0;
};

struct LineChart {
  std::string title{};  ///< for readers who can't see the drawing
  int width = 520;      ///< in CSS pixels at natural size
  int height = 300;
  Axis x{}, y{};
  std::vector<Band> bands{};
  std::vector<Series> series{};
  std::vector<Level> levels{};
  std::vector<Mark> marks{};
  bool zero_line = false;
};

std::string draw(const LineChart& chart);

struct RowMark {
  double value = kNotLogged;
  int color = 0;
  std::string group{};
  std::string tip{};  ///< shown on hovering
  bool hollow = false;
  double low = kNotLogged;  ///< a thin line from low to high behind the mark
  double high = kNotLogged;
};

struct Row {
  std::string label{};
  std::string text{};  ///< written at the right end
  int color = 0;       ///< of label, text and bar
  std::string group{};
  double bar = kNotLogged;  ///< length of a bar from zero
  std::vector<RowMark> marks{};
};

/// Horizontal rows that share a value axis. Marks of one row are stacked in lanes when `lanes` is set.
struct RowPlot {
  std::string title{};
  int width = 520;
  Axis x{};
  std::vector<Row> rows{};
  bool lanes = false;
  double band_low = kNotLogged;  ///< shaded from low to high across all rows
  double band_high = kNotLogged;
  std::string band_label{};
};

std::string draw(const RowPlot& plot);

struct HeatCell {
  double value = kNotLogged;
  std::string text{};
  std::string tip{};
};

/// Cells are the stronger coloured the closer their value lies to `strong` (values beyond are clipped); a cell that
/// is not finite has no colour.
struct HeatMap {
  std::string title{};
  std::vector<std::string> columns{};
  std::vector<std::string> rows{};
  std::vector<std::vector<HeatCell>> cells{};  ///< [row][column]
  double pale = 0;
  double strong = 1;
};

std::string draw(const HeatMap& map);

/// Figures of layers over the steps of a run: one panel an operand (or product) with a row a layer and a column a
/// measurement. Coloured as HeatMap, in kTimeMapLevels steps of strength so that cells of one strength are one path;
/// the page's script draws other figures into the same paths.
struct TimeMap {
  std::string title{};
  int width = 1040;
  std::vector<std::string> rows{};
  std::vector<std::int64_t> steps{};  ///< of the columns
  struct Panel {
    std::string label{};
    std::vector<std::vector<double>> values{};  ///< [row][column]
  };
  std::vector<Panel> panels{};
  int panels_per_line = 6;
  double pale = 0;
  double strong = 1;
};
inline constexpr int kTimeMapLevels = 12;
/// Opacity of the strongest cell: beyond it a cell's text would no longer stand out.
inline constexpr double kStrongestCell = 0.62;

std::string draw(const TimeMap& map);

}  // namespace nibble
