#include <algorithm>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/report/svg_writer.h"

namespace nibble {
namespace {

constexpr double kLane = 11;        // height of one mark's lane
constexpr double kRowPadding = 14;  // between rows
constexpr double kBar = 16;
constexpr double kLabelledTop = 22;  // with the label of the band
constexpr double kPlainTop = 6;
constexpr double kBottom = 42;

double row_height(const RowPlot& plot, const Row& row) {
  const double lanes = plot.lanes ? static_cast<double>(std::max<std::size_t>(row.marks.size(), 1)) : 1;
  return std::max(kLane * lanes, std::isnan(row.bar) ? 0.0 : kBar) + kRowPadding;
}

double widest(const RowPlot& plot, std::string Row::*text) {
  double width = 0;
  for (const Row& row : plot.rows) width = std::max(width, text_width(row.*text));
  return width;
}

std::string draw_mark(const RowMark& mark, const Scale& x, double y) {
  if (!x.shows(mark.value)) return {};
  std::string out =
      fmt::format("<g{}>", series_attributes(mark.hollow ? "mark hollow" : "mark", mark.color, mark.group));
  if (x.shows(mark.low) && x.shows(mark.high)) out += line_element(x(mark.low), y, x(mark.high), y, "range");
  return out + fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"4\"><title>{}</title></circle></g>\n",
                           coordinate(x(mark.value)), coordinate(y), escape_markup(mark.tip));
}

std::string draw_row(const RowPlot& plot, const Row& row, const Scale& x, double y, double text_x) {
  std::string out = fmt::format("<g{}>\n", series_attributes("row", row.color, row.group));
  out += text_element(x.from - 12, y + 4, Anchor::End, "direct",
                      fit_width(row.label, static_cast<std::size_t>((x.from - 12) / kBoldWidth)));
  if (x.shows(row.bar)) {
    const double from = x(std::max(0.0, x.low));
    out +=
        fmt::format("<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"2\"/>\n", coordinate(from),
                    coordinate(y - kBar / 2), coordinate(std::max(x(row.bar) - from, 0.0)), coordinate(kBar));
  }
  if (!row.text.empty()) out += text_element(text_x, y + 4, Anchor::Start, "value", row.text);
  out += "</g>\n";
  const double count = static_cast<double>(row.marks.size());
  for (std::size_t i = 0; i < row.marks.size(); ++i) {
    const double lane = plot.lanes ? (static_cast<double>(i) - (count - 1) / 2) * kLane : 0;
    out += draw_mark(row.marks[i], x, y + lane);
  }
  return out;
}

}  // namespace

std::string draw(const RowPlot& plot) {
  std::vector<double> values{plot.band_low, plot.band_high};
  const double top = plot.band_label.empty() ? kPlainTop : kLabelledTop;
  double height = top + kBottom;
  for (const Row& row : plot.rows) {
    values.push_back(row.bar);
    for (const RowMark& mark : row.marks) values.insert(values.end(), {mark.value, mark.low, mark.high});
    height += row_height(plot, row);
  }
  Scale x = make_scale(plot.x, {&values}, 0.05);
  x.from = std::min(widest(plot, &Row::label) * kBoldWidth / kCharacterWidth, 0.35 * plot.width) + 14;
  const double text_width = widest(plot, &Row::text);
  x.to = plot.width - (text_width > 0 ? text_width + 16 : 16);
  const double bottom = height - kBottom;
  const Ticks ticks = make_ticks(x, std::max(3, static_cast<int>((x.to - x.from) / 100)));

  std::string out = open_drawing("rows", plot.width, height, plot.title);
  if (x.shows(plot.band_low) && x.shows(plot.band_high)) {
    out +=
        fmt::format("<rect class=\"band\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>\n",
                    coordinate(x(plot.band_low)), coordinate(top - 4), coordinate(x(plot.band_high) - x(plot.band_low)),
                    coordinate(bottom - top + 4), escape_markup(plot.band_label));
    const double middle =
        std::clamp(x((plot.band_low + plot.band_high) / 2), x.from + nibble::text_width(plot.band_label) / 2,
                   plot.width - nibble::text_width(plot.band_label) / 2);
    out += text_element(middle, top - 9, Anchor::Middle, "name", plot.band_label);
  }
  for (std::size_t i = 0; i < ticks.at.size(); ++i) {
    const double at = x(ticks.at[i]);
    out += line_element(at, top - 4, at, bottom, ticks.at[i] == 0 ? "zero" : "grid");
    out += text_element(at, bottom + 17, Anchor::Middle, "tick", ticks.labels[i]);
  }
  out += text_element(x.to, bottom + 34, Anchor::End, "name", plot.x.label);
  double y = top;
  for (const Row& row : plot.rows) {
    const double own = row_height(plot, row);
    out += draw_row(plot, row, x, y + own / 2, x.to + 10);
    y += own;
  }
  return out + "</svg>\n";
}

}  // namespace nibble
