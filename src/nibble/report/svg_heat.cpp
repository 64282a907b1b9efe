#include <algorithm>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/report/svg_writer.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

constexpr double kCellWidth = 46;
constexpr double kCellHeight = 19;
constexpr double kHeader = 24;

}  // namespace

std::string draw(const HeatMap& map) {
  require(map.rows.size() == map.cells.size(), "{} heat map rows have {} rows of cells", map.rows.size(),
          map.cells.size());
  double label_width = 0;
  for (const std::string& row : map.rows) label_width = std::max(label_width, text_width(row));
  const double left = label_width + 12;
  const double width = left + kCellWidth * static_cast<double>(map.columns.size()) + 2;
  const double height = kHeader + kCellHeight * static_cast<double>(map.rows.size()) + 2;

  std::string out = open_drawing("heat", width, height, map.title);
  for (std::size_t c = 0; c < map.columns.size(); ++c) {
    out += text_element(left + kCellWidth * (static_cast<double>(c) + 0.5), kHeader - 8, Anchor::Middle, "name",
                        map.columns[c]);
  }
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    require(map.cells[r].size() == map.columns.size(), "heat map row {} has {} cells for {} columns", r,
            map.cells[r].size(), map.columns.size());
    const double y = kHeader + kCellHeight * static_cast<double>(r);
    out += text_element(left - 8, y + kCellHeight / 2 + 4, Anchor::End, "tick", map.rows[r]);
    for (std::size_t c = 0; c < map.columns.size(); ++c) {
      const HeatCell& cell = map.cells[r][c];
      const double x = left + kCellWidth * static_cast<double>(c);
      out += fmt::format(
          "<rect class=\"cell\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill-opacity=\"{:.3f}\">"
          "<title>{}</title></rect>\n",
          coordinate(x + 0.5), coordinate(y + 0.5), coordinate(kCellWidth - 1), coordinate(kCellHeight - 1),
          kStrongestCell * cell_strength(map.pale, map.strong, cell.value), escape_markup(cell.tip));
      out += text_element(x + kCellWidth / 2, y + kCellHeight / 2 + 4, Anchor::Middle, "cell-text", cell.text);
    }
  }
  return out + "</svg>\n";
}

}  // namespace nibble
