// An inspection as one self-contained page: heat maps of SNR, outlier channels, histograms of every layer.
#pragma once

#include <filesystem>
#include <string>

#include "nibble/inspect/inspection.h"

namespace nibble {

/// The same inspection gives the same bytes.
std::string inspection_page(const Inspection& inspection);

/// Writes inspect.html and inspect.json into the folder, which is made where it is missing.
void write_inspection(const Inspection& inspection, const std::filesystem::path& directory);

}  // namespace nibble
