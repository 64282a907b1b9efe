#include "nibble/report/svg_writer.h"

#include <algorithm>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/report/ticks.h"

namespace nibble {

std::string escape_markup(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      case '\n':
      case '\t': out += c; break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F) out += c;
    }
  }
  return out;
}

double text_width(std::string_view text) { return kCharacterWidth * static_cast<double>(display_width(text)); }

std::string coordinate(double value) {
  std::string text = fmt::format("{:.1f}", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

std::string series_attributes(std::string_view shape, int color, std::string_view group) {
  return fmt::format(" class=\"{} k{}\" data-group=\"{}\"", shape, color % kSeriesColors, escape_markup(group));
}

std::string open_drawing(std::string_view kind, double width, double height, std::string_view title,
                         std::string_view attributes) {
  return fmt::format(
      "<svg class=\"plot {}\" viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\" aria-label=\"{}\"{}>\n",
      kind, coordinate(width), coordinate(height), coordinate(width), coordinate(height), escape_markup(title),
      attributes);
}

std::string text_element(double x, double y, Anchor anchor, std::string_view css_class, std::string_view text) {
  const char* name = anchor == Anchor::Start ? "start" : anchor == Anchor::Middle ? "middle" : "end";
  return fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\" class=\"{}\">{}</text>\n", coordinate(x),
                     coordinate(y), name, css_class, escape_markup(text));
}

std::string line_element(double x1, double y1, double x2, double y2, std::string_view css_class) {
  return fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{}\"/>\n", coordinate(x1), coordinate(y1),
                     coordinate(x2), coordinate(y2), css_class);
}

double cell_strength(double pale, double strong, double value) {
  if (strong == pale || !std::isfinite(value)) return 0;
  return std::clamp((value - pale) / (strong - pale), 0.0, 1.0);
}

double Scale::operator()(double value) const {
  const double share = logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  return from + share * (to - from);
}

bool Scale::shows(double value) const { return std::isfinite(value) && (!logarithmic || value > 0); }

Scale make_scale(const Axis& axis, const std::vector<const std::vector<double>*>& data, double padding) {
  Scale scale;
  scale.logarithmic = axis.logarithmic;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const std::vector<double>* values : data) {
    for (double value : *values) {
      if (!scale.shows(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (low > high) low = high = 1;
  if (axis.from_zero && !axis.logarithmic) {
    low = std::min(low, 0.0);
    high = std::max(high, 0.0);
  }
  const bool at_zero = axis.from_zero && low == 0;
  if (axis.logarithmic) {
    const double factor = low == high ? 2 : std::pow(high / low, padding);
    low /= factor;
    high *= factor;
  } else {
    // A constant still needs an axis: a tenth around it, or around one where it is zero.
    const double margin = low == high ? (low == 0 ? 1 : 0.1 * std::abs(low)) : padding * (high - low);
    low = at_zero ? 0 : low - margin;
    high += margin;
  }
  scale.low = std::isnan(axis.low) ? low : axis.low;
  scale.high = std::isnan(axis.high) ? high : axis.high;
  if (scale.high <= scale.low) scale.high = axis.logarithmic ? 2 * scale.low : scale.low + 1;
  return scale;
}

Ticks make_ticks(const Scale& scale, int target) {
  Ticks ticks;
  ticks.at = scale.logarithmic ? log_ticks(scale.low, scale.high, target) : nice_ticks(scale.low, scale.high, target);
  ticks.labels = tick_labels(ticks.at);
  return ticks;
}

}  // namespace nibble
