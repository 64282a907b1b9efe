// Plain-text tables for terminals, aligned by display width.
#pragma once

#include <string>
#include <vector>

#include "nibble/report/summary.h"

namespace nibble {

enum class Align { Left, Right };

struct TableColumn {
  std::string header;
  Align align = Align::Right;
};

struct TextTable {
  std::vector<TableColumn> columns;
  std::vector<std::vector<std::string>> rows;  ///< as many cells as columns
};

/// Header, rule and rows, two spaces between columns, no trailing blanks, every line ended by a newline.
std::string format_table(const TextTable& table);

/// The table of a comparison, one row a recipe (the mean over its seeds), followed by what the noise is:
///
///   recipe       seeds  train loss  val loss  gap %  tokens/s  clamped %    FA    FW    DG    DW    GG    GX
///   -----------  -----  ----------  --------  -----  --------  ---------  ----  ----  ----  ----  ----  ----
///   bf16         1, 2       3.2107    3.2498   0.00     1,850          -     -     -     -     -     -     -
///   wang2025     1, 2       3.2391    3.2770  +0.84     2,960       1.00  21.3  20.6  31.5  31.4  31.5  31.6
///
///   noise: 2 seeds of bf16 differ by 0.30 % in validation loss, the unit of gap %.
std::string format_compare_table(const Comparison& comparison);

}  // namespace nibble
