// The report: one self-contained HTML page (style, drawings and a little script inline, nothing from a network; a
// Content-Security-Policy in the page forbids it). It is complete without script, which adds a read-out under the
// pointer and switches series on and off.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nibble/report/summary.h"

namespace nibble {

/// The page of a set of runs. The same comparison gives the same bytes.
std::string report_page(const Comparison& comparison);

/// Loads run, comparison or parent directories (load_comparison) and writes the page, all or nothing.
/// Throws UserError.
void write_report(const std::vector<std::filesystem::path>& directories, const std::filesystem::path& out);

}  // namespace nibble
