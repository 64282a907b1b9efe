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

/// A data file by name (FOLDER/NAME.toml, with the folder below the current one or where the program is installed) or
/// by path (anything with a slash or ".toml"). `what` names its kind in the UserError for an unknown name.
std::filesystem::path find_data_file(const std::string& folder, const std::string& name_or_path, const char* what);

}  // namespace nibble
