// The published runs that these tests are held against (laws/*.csv; the files say where they come from).
#pragma once

#include <string>
#include <vector>

#include "nibble/scaling/points.h"
#include "tests/temporary_directory.h"

namespace nibble {

inline double no_model(const std::string& name) { throw UserError("no model '" + name + "'"); }

inline std::filesystem::path law_folder() { return std::filesystem::path(NIBBLE_SOURCE_DIR) / "laws"; }

/// The runs of the paper, and with `later` those that the refit added.
inline std::vector<LossPoint> quartet_runs(bool later = false) {
  std::vector<std::filesystem::path> files = {law_folder() / "quartet-losses.csv"};
  if (later) files.push_back(law_folder() / "quartet-losses-later.csv");
  return read_loss_points(files, no_model).points;
}

constexpr double k30M = 30482560;
constexpr double k50M = 49556736;
constexpr double k100M = 102777856;
constexpr double k200M = 203188480;

}  // namespace nibble
