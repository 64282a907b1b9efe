// What the drawings of svg.h have in common: an element writer and axis scales.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <vector>

#include "nibble/report/svg.h"

namespace nibble {

/// Width of an average character of the 12 px type that all drawings use, and of its bold for direct labels; on the
/// wide side of common typefaces.
inline constexpr double kCharacterWidth = 6.7;
inline constexpr double kBoldWidth = 7.4;

double text_width(std::string_view text);

/// A coordinate with one decimal, without a trailing ".0".
std::string coordinate(double value);

/// " class=\"line k3 dash1\" data-group=\"...\"" of a coloured shape.
std::string series_attributes(std::string_view shape, int color, std::string_view group);

/// Opening tag of a drawing, with its accessible name.
std::string open_drawing(std::string_view kind, double width, double height, std::string_view title,
                         std::string_view attributes = {});

enum class Anchor { Start, Middle, End };
std::string text_element(double x, double y, Anchor anchor, std::string_view css_class, std::string_view text);
std::string line_element(double x1, double y1, double x2, double y2, std::string_view css_class);

/// How strongly a cell of a heat map is coloured, 0 to 1; 0 for what is not finite.
double cell_strength(double pale, double strong, double value);

/// Maps values of an axis to coordinates.
struct Scale {
  double low = 0;
  double high = 1;
  double from = 0;  ///< coordinate of low
  double to = 1;    ///< coordinate of high
  bool logarithmic = false;

  double operator()(double value) const;
  /// False for NaN, infinities and what a logarithm can't show.
  bool shows(double value) const;
};

/// Range of the axis over the data: its own limits where set, otherwise those of the finite values, widened by
/// `padding` of the range; never empty.
Scale make_scale(const Axis& axis, const std::vector<const std::vector<double>*>& data, double padding);

struct Ticks {
  std::vector<double> at;
  std::vector<std::string> labels;
};
Ticks make_ticks(const Scale& scale, int target);

}  // namespace nibble
