#include <algorithm>
#include <array>
#include <cmath>

#include "nibble/report/svg_writer.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

constexpr double kHeader = 24;   // the label of a panel
constexpr double kGap = 14;      // between panels
constexpr double kFooter = 20;   // the steps under the last line of panels
constexpr double kTallest = 15;  // of a row
constexpr double kHeight = 380;  // that rows may take together before they get lower

struct Geometry {
  double left, cell_width, cell_height, pitch_x, pitch_y;
  std::size_t per_line;

  double x(std::size_t panel) const { return left + pitch_x * static_cast<double>(panel % per_line); }
  double y(std::size_t panel) const {
    const std::size_t line = panel / per_line;
    return kHeader + pitch_y * static_cast<double>(line);
  }
};

/// Level of strength: 0 = no colour.
int level_of(const TimeMap& map, double value) {
  return static_cast<int>(std::lround(kTimeMapLevels * cell_strength(map.pale, map.strong, value)));
}

/// Rectangles of one row of a panel, neighbours of one level as one.
void add_row(const TimeMap& map, const std::vector<double>& values, double x, double y, const Geometry& g,
             std::array<std::string, kTimeMapLevels + 1>& paths) {
  for (std::size_t begin = 0; begin < values.size();) {
    const int level = level_of(map, values[begin]);
    std::size_t end = begin + 1;
    while (end < values.size() && level_of(map, values[end]) == level) ++end;
    const std::string width = coordinate(g.cell_width * static_cast<double>(end - begin));
    paths[static_cast<std::size_t>(level)] +=
        fmt::format("M{} {}h{}v{}h-{}z", coordinate(x + g.cell_width * static_cast<double>(begin)), coordinate(y),
                    width, coordinate(g.cell_height - 1), width);
    begin = end;
  }
}

}  // namespace

std::string draw(const TimeMap& map) {
  const std::size_t columns = map.steps.size();
  for (const TimeMap::Panel& panel : map.panels) {
    require(panel.values.size() == map.rows.size(), "a time map's panel has {} rows, not {}", panel.values.size(),
            map.rows.size());
    for (const std::vector<double>& row : panel.values) {
      require(row.size() == columns, "a time map's row has {} columns, not {}", row.size(), columns);
    }
  }
  require(columns > 0 && !map.rows.empty() && !map.panels.empty(), "a time map without cells");

  double label_width = 0;
  for (const std::string& row : map.rows) label_width = std::max(label_width, text_width(row));
  const auto per_line = static_cast<std::size_t>(map.panels_per_line);
  const double left = label_width + 12;
  const double rows = static_cast<double>(map.rows.size());
  const double panel_width = (map.width - left - kGap * (map.panels_per_line - 1)) / map.panels_per_line;
  const double cell_height = std::clamp(std::floor(kHeight / rows), 3.0, kTallest);
  const Geometry g{left,
                   panel_width / static_cast<double>(columns),
                   cell_height,
                   panel_width + kGap,
                   kHeader + cell_height * rows,
                   per_line};
  const std::size_t lines = (map.panels.size() + per_line - 1) / per_line;
  const double height = g.pitch_y * static_cast<double>(lines) + kFooter;

  std::string out =
      open_drawing("time-map", map.width, height, map.title,
                   fmt::format(" data-map=\"{:.3f} {} {:.3f} {} {:.3f} {} {} {} {}\"", g.left, kHeader, g.cell_width,
                               g.cell_height, g.pitch_x, g.pitch_y, per_line, map.rows.size(), columns));
  std::array<std::string, kTimeMapLevels + 1> paths;
  for (std::size_t p = 0; p < map.panels.size(); ++p) {
    out += text_element(g.x(p), g.y(p) - 8, Anchor::Start, "name panel", map.panels[p].label);
    out +=
        fmt::format("<rect class=\"panel-frame\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n", coordinate(g.x(p)),
                    coordinate(g.y(p)), coordinate(panel_width), coordinate(g.cell_height * rows - 1));
    for (std::size_t r = 0; r < map.rows.size(); ++r) {
      add_row(map, map.panels[p].values[r], g.x(p), g.y(p) + g.cell_height * static_cast<double>(r), g, paths);
    }
  }
  // Rows lower than type is high are not all labelled.
  const auto every = static_cast<std::size_t>(std::ceil(13 / g.cell_height));
  for (std::size_t line = 0; line < lines; ++line) {
    for (std::size_t r = 0; r < map.rows.size(); r += every) {
      const double middle = g.y(line * per_line) + g.cell_height * (static_cast<double>(r) + 0.5);
      out += text_element(left - 8, middle + 4, Anchor::End, "tick", map.rows[r]);
    }
  }
  for (std::size_t level = 1; level < paths.size(); ++level) {
    out += fmt::format("<path class=\"cell\" data-level=\"{}\" fill-opacity=\"{:.3f}\" d=\"{}\"/>\n", level,
                       kStrongestCell * static_cast<double>(level) / kTimeMapLevels, paths[level]);
  }
  out += text_element(left, height - 5, Anchor::Start, "tick", fmt::format("step {}", map.steps.front()));
  if (columns > 1) {
    out += text_element(left + panel_width, height - 5, Anchor::End, "tick", std::to_string(map.steps.back()));
  }
  return out + "</svg>\n";
}

}  // namespace nibble
