// Scaling laws as files (TOML; docs/scaling.md lists the keys). What `nibble scaling fit` writes, `predict` and `map`
// read; published laws lie in laws/.
#pragma once

#include <filesystem>
#include <string>

#include "nibble/scaling/fit.h"

namespace nibble {

/// Throws UserError with file, line and key for anything that is missing, unknown or out of range.
ScalingFit load_law(const std::filesystem::path& path);
ScalingFit parse_law(const std::string& text, const std::string& origin);

/// The text of a law file; parse_law gives the same figures back, bit for bit.
std::string law_to_toml(const ScalingFit& fit);

}  // namespace nibble
