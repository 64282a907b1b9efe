#include <algorithm>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/report/svg_writer.h"

namespace nibble {
namespace {

constexpr double kTop = 26;     // the label of the y axis stands here
constexpr double kBottom = 42;  // tick labels and the label of the x axis
constexpr double kLabelSpacing = 15;

struct Frame {
  double left, right, top, bottom;
};

struct DirectLabel {
  std::string text;
  int color;
  std::string group;
  bool dot;      // on the last point
  bool beside;   // right of the frame, where the lines that reach its end are labelled
  double x, y;   // the last point
  double place;  // where the text goes
};

/// Line pieces between gaps, as path data.
std::string path_data(const Curve& curve, const Scale& x, const Scale& y) {
  std::string data;
  bool pen_down = false;
  for (std::size_t i = 0; i < curve.x.size(); ++i) {
    if (!x.shows(curve.x[i]) || !y.shows(curve.y[i])) {
      pen_down = false;
      continue;
    }
    data += fmt::format("{}{} {}", pen_down ? 'L' : 'M', coordinate(x(curve.x[i])), coordinate(y(curve.y[i])));
    pen_down = true;
  }
  return data;
}

std::string band_path(const Band& band, const Scale& x, const Scale& y) {
  std::string there;
  std::string back;
  for (std::size_t i = 0; i < band.x.size(); ++i) {
    if (!std::isfinite(band.low[i]) || !std::isfinite(band.high[i]) || !x.shows(band.x[i])) continue;
    const std::string at = coordinate(x(band.x[i])) + " ";
    there += (there.empty() ? "M" : "L") + at + coordinate(y(band.high[i]));
    back = "L" + at + coordinate(y(band.low[i])) + back;
  }
  if (there.empty()) return {};
  return fmt::format("<path class=\"band\" d=\"{}{}Z\"><title>{}</title></path>\n", there, back,
                     escape_markup(band.tip));
}

std::string grid(const LineChart& chart, const Frame& frame, const Scale& x, const Scale& y, const Ticks& x_ticks,
                 const Ticks& y_ticks) {
  std::string out;
  for (std::size_t i = 0; i < y_ticks.at.size(); ++i) {
    const double at = y(y_ticks.at[i]);
    out += line_element(frame.left, at, frame.right, at, "grid");
    out += text_element(frame.left - 8, at + 4, Anchor::End, "tick", y_ticks.labels[i]);
  }
  for (std::size_t i = 0; i < x_ticks.at.size(); ++i) {
    const double at = x(x_ticks.at[i]);
    out += line_element(at, frame.bottom, at, frame.bottom + 4, "axis");
    out += text_element(at, frame.bottom + 17, Anchor::Middle, "tick", x_ticks.labels[i]);
  }
  out += line_element(frame.left, frame.bottom, frame.right, frame.bottom, "axis");
  out += text_element(std::max(frame.left - 8 - text_width(y_ticks.labels.empty() ? "" : y_ticks.labels.back()), 0.0),
                      13, Anchor::Start, "name", chart.y.label);
  out += text_element(frame.right, frame.bottom + 34, Anchor::End, "name", chart.x.label);
  return out;
}

std::string draw_marks(const LineChart& chart, const Frame& frame, const Scale& x) {
  std::string out;
  int labelled = 0;
  for (const Mark& mark : chart.marks) {
    const double at = x(mark.x);
    if (!x.shows(mark.x) || at < frame.left || at > frame.right) continue;
    out += fmt::format("<g{}>\n", series_attributes("event", mark.color, mark.group));
    out += line_element(at, frame.top, at, frame.bottom, "event-line");
    const bool room_right = at + 4 + text_width(mark.label) <= frame.right;
    if (!mark.label.empty()) {
      const double lane = frame.top + 10 + 14 * (labelled++ % 4);  // neighbours don't write over each other
      out += text_element(room_right ? at + 4 : at - 4, lane, room_right ? Anchor::Start : Anchor::End,
                          "event-text halo", mark.label);
    }
    out += "</g>\n";
  }
  return out;
}

std::string draw_levels(const LineChart& chart, const Frame& frame, const Scale& y) {
  std::string out;
  for (const Level& level : chart.levels) {
    const double at = y(level.value);
    if (!y.shows(level.value) || at < frame.top || at > frame.bottom) continue;
    out += line_element(frame.left, at, frame.right, at, "level");
    out += text_element(frame.left + 6, at - 5, Anchor::Start, "halo", level.label);
  }
  return out;
}

std::string draw_series(const Series& series, const Frame& frame, const Scale& x, const Scale& y) {
  std::string out;
  const std::string name = escape_markup(series.name);
  if (series.line) {
    const std::string shape = fmt::format("line dash{}{}", series.dash % 4, series.faint ? " faint" : "");
    out += fmt::format("<path{} data-name=\"{}\" d=\"{}\"/>\n", series_attributes(shape, series.color, series.group),
                       name, path_data(series.curve, x, y));
  }
  if (series.markers) {
    out += fmt::format("<g{}>\n", series_attributes("dots", series.color, series.group));
    for (std::size_t i = 0; i < series.curve.x.size(); ++i) {
      if (!x.shows(series.curve.x[i]) || !y.shows(series.curve.y[i])) continue;
      const double cx = x(series.curve.x[i]);
      const double cy = y(series.curve.y[i]);
      if (cy < frame.top - 4 || cx < frame.left - 4) continue;
      out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3\"><title>{}: {:.5g} at {:.6g}</title></circle>\n",
                         coordinate(cx), coordinate(cy), name, series.curve.y[i], series.curve.x[i]);
    }
    out += "</g>\n";
  }
  return out;
}

std::vector<DirectLabel> last_points(const LineChart& chart, const Frame& frame, const Scale& x, const Scale& y) {
  std::vector<DirectLabel> labels;
  const auto add = [&](std::string text, int color, std::string group, bool dot, double px, double py) {
    const double at = std::clamp(y(py), frame.top, frame.bottom);
    const double end = std::min(x(px), frame.right);
    if (end < frame.left) return;
    labels.push_back({std::move(text), color, std::move(group), dot, end >= frame.right - 1, end, at, at});
  };
  for (const Series& series : chart.series) {
    if (series.label.empty()) continue;
    for (std::size_t i = series.curve.x.size(); i-- > 0;) {
      if (!x.shows(series.curve.x[i]) || !y.shows(series.curve.y[i])) continue;
      add(series.label, series.color, series.group, true, series.curve.x[i], series.curve.y[i]);
      break;
    }
  }
  for (const Band& band : chart.bands) {
    if (band.label.empty() || band.x.empty()) continue;
    const double middle = (band.low.back() + band.high.back()) / 2;
    if (y.shows(middle)) add(band.label, 0, "", false, band.x.back(), middle);
  }
  return labels;
}

/// Moves the labels beside the frame apart until none overlap: from the top down, then back up where they ran over
/// the frame.
void spread(std::vector<DirectLabel>& labels, const Frame& frame) {
  std::stable_sort(labels.begin(), labels.end(), [](const auto& a, const auto& b) { return a.y < b.y; });
  double floor = frame.top;
  for (DirectLabel& label : labels) {
    if (!label.beside) continue;
    label.place = std::max(label.place, floor);
    floor = label.place + kLabelSpacing;
  }
  double ceiling = frame.bottom;
  for (auto label = labels.rbegin(); label != labels.rend(); ++label) {
    if (!label->beside) continue;
    label->place = std::min(label->place, ceiling);
    ceiling = label->place - kLabelSpacing;
  }
}

std::string draw_labels(const std::vector<DirectLabel>& labels, const Frame& frame, double columns) {
  std::string out;
  for (const DirectLabel& label : labels) {
    out += fmt::format("<g{}>\n", series_attributes("label", label.color, label.group));
    if (label.dot) {
      out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3\"/>\n", coordinate(label.x), coordinate(label.y));
    }
    const double text_x = label.beside ? frame.right + 14 : label.x + 8;
    if (label.dot && std::abs(label.place - label.y) > 3) {
      out += fmt::format("<path class=\"leader\" d=\"M{} {}L{} {}L{} {}\"/>\n", coordinate(label.x + 3),
                         coordinate(label.y), coordinate(frame.right + 4), coordinate(label.y), coordinate(text_x - 3),
                         coordinate(label.place));
    }
    out += text_element(text_x, label.place + 4, Anchor::Start, label.dot ? "direct halo" : "name",
                        fit_width(label.text, static_cast<std::size_t>(columns)));
    out += "</g>\n";
  }
  return out;
}

}  // namespace

std::string draw(const LineChart& chart) {
  std::vector<const std::vector<double>*> xs;
  std::vector<const std::vector<double>*> ys;
  double label_columns = 0;
  for (const Series& series : chart.series) {
    xs.push_back(&series.curve.x);
    ys.push_back(&series.curve.y);
    label_columns = std::max(label_columns, static_cast<double>(display_width(series.label)));
  }
  for (const Band& band : chart.bands) {
    ys.push_back(&band.low);
    ys.push_back(&band.high);
    label_columns = std::max(label_columns, static_cast<double>(display_width(band.label)));
  }
  std::vector<double> levels;
  for (const Level& level : chart.levels) levels.push_back(level.value);
  ys.push_back(&levels);
  Scale x = make_scale(chart.x, xs, 0);
  Scale y = make_scale(chart.y, ys, 0.05);
  const Ticks y_ticks = make_ticks(y, std::max(2, static_cast<int>(chart.height / 60)));
  double tick_width = 0;
  for (const std::string& label : y_ticks.labels) tick_width = std::max(tick_width, text_width(label));

  label_columns = std::min(label_columns, std::floor(0.3 * chart.width / kBoldWidth));
  const double label_width = label_columns > 0 ? 18 + label_columns * kBoldWidth : 14;
  const Frame frame{tick_width + 12, chart.width - label_width, kTop, chart.height - kBottom};
  x.from = frame.left;
  x.to = frame.right;
  y.from = frame.bottom;
  y.to = frame.top;
  const Ticks x_ticks = make_ticks(x, std::max(2, static_cast<int>((frame.right - frame.left) / 90)));

  std::string out = open_drawing(
      "lines", chart.width, chart.height, chart.title,
      fmt::format(" data-x=\"{} {} {:.9g} {:.9g} {}\" data-y=\"{} {} {:.9g} {:.9g} {}\" data-x-name=\"{}\"",
                  coordinate(x.from), coordinate(x.to), x.low, x.high, x.logarithmic ? 1 : 0, coordinate(y.from),
                  coordinate(y.to), y.low, y.high, y.logarithmic ? 1 : 0, escape_markup(chart.x.label)));
  out += grid(chart, frame, x, y, x_ticks, y_ticks);
  // A nested drawing clips what leaves the frame, without an id that would have to be unique on the page.
  const double inner_width = frame.right - frame.left + 8;
  const double inner_height = frame.bottom - frame.top + 8;
  out += fmt::format("<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"{0} {1} {2} {3}\">\n",
                     coordinate(frame.left - 4), coordinate(frame.top - 4), coordinate(inner_width),
                     coordinate(inner_height));
  for (const Band& band : chart.bands) out += band_path(band, x, y);
  if (chart.zero_line && y.low <= 0 && y.high >= 0) out += line_element(frame.left, y(0), frame.right, y(0), "zero");
  for (const Series& series : chart.series) out += draw_series(series, frame, x, y);
  out += "</svg>\n" + draw_levels(chart, frame, y) + draw_marks(chart, frame, x);
  std::vector<DirectLabel> labels = last_points(chart, frame, x, y);
  spread(labels, frame);
  out += draw_labels(labels, frame, label_columns);
  return out + "</svg>\n";
}

}  // namespace nibble
