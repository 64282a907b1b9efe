#include "nibble/report/table.h"

#include <algorithm>
#include <cmath>

#include "nibble/io/format.h"
#include "nibble/report/finding.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

void append_cell(std::string& line, const std::string& text, std::size_t width, Align align) {
  const std::string padding(width - display_width(text), ' ');
  line += align == Align::Left ? text + padding : padding + text;
}

void append_line(std::string& out, const TextTable& table, const std::vector<std::string>& cells,
                 const std::vector<std::size_t>& widths) {
  std::string line;
  for (std::size_t c = 0; c < cells.size(); ++c) {
    if (c > 0) line += "  ";
    append_cell(line, cells[c], widths[c], table.columns[c].align);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + "\n";
}

std::string join_seeds(const std::vector<std::uint64_t>& seeds) {
  std::string text;
  for (std::uint64_t seed : seeds) text += (text.empty() ? "" : ", ") + std::to_string(seed);
  return text;
}

std::string percent_cell(double share) { return std::isnan(share) ? "-" : fmt::format("{:.2f}", 100 * share); }

}  // namespace

std::string format_table(const TextTable& table) {
  std::vector<std::string> headers;
  std::vector<std::size_t> widths;
  for (const TableColumn& column : table.columns) {
    headers.push_back(column.header);
    widths.push_back(display_width(column.header));
  }
  for (const std::vector<std::string>& row : table.rows) {
    require(row.size() == widths.size(), "a table row has {} cells for {} columns", row.size(), widths.size());
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], display_width(row[c]));
  }
  std::vector<std::string> rules;
  rules.reserve(widths.size());
  for (std::size_t width : widths) rules.emplace_back(width, '-');

  std::string out;
  append_line(out, table, headers, widths);
  append_line(out, table, rules, widths);
  for (const std::vector<std::string>& row : table.rows) append_line(out, table, row, widths);
  return out;
}

std::string format_compare_table(const Comparison& comparison) {
  TextTable table;
  table.columns = {{"recipe", Align::Left},
                   {"seeds", Align::Left},
                   {"train loss"},
                   {"val loss"},
                   {"gap %"},
                   {"tokens/s"},
                   {"clamped %"}};
  for (const char* name : kOperandShortNames) table.columns.push_back({name});
  for (const RecipeSummary& recipe : comparison.recipes) {
    std::vector<std::string> row = {recipe.label,
                                    join_seeds(recipe.seeds),
                                    format_loss(recipe.train_loss),
                                    format_loss(recipe.val_loss),
                                    recipe.diverged ? "diverged" : format_gap(recipe.gap_percent),
                                    format_rate(recipe.tokens_per_second),
                                    percent_cell(recipe.clamped_share)};
    for (const OperandQuality& operand : recipe.quality) row.push_back(format_decibel(operand.snr_db));
    table.rows.push_back(std::move(row));
  }
  return format_table(table) + "\n" + state_noise(comparison) +
         "\nFA FW DG DW GG GX: signal-to-noise ratio in dB of the quantized operands fprop.x, fprop.w, dgrad.dy, "
         "dgrad.w, wgrad.dy, wgrad.x; exact: no rounding error, -: not logged.\n";
}

}  // namespace nibble
