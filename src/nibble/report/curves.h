// Curves over training that are derived from run logs: smoothed losses, the gap to the baseline, the noise.
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/report/runs.h"

namespace nibble {

/// y over the step x; NaN where there is no value.
struct Curve {
  std::vector<double> x;
  std::vector<double> y;
};

/// Mean over the 2 * half_width + 1 values around each, cut at the ends; NaN values are left out.
std::vector<double> smooth(const std::vector<double>& values, std::size_t half_width);
/// Half width that smooths n steps over about a twenty-fifth of the run.
std::size_t smoothing_half_width(std::size_t n);

Curve loss_curve(const RunLog& run);        ///< smoothed training loss
Curve validation_curve(const RunLog& run);  ///< as logged

/// 100 (loss / mean loss of the baselines - 1), step by step at the steps that all have, then smoothed: runs of
/// one seed see the same batches, so most of the noise of single steps cancels.
Curve training_gap(const RunLog& run, const std::vector<const RunLog*>& baselines);
/// The same of the validation losses, not smoothed.
Curve validation_gap(const RunLog& run, const std::vector<const RunLog*>& baselines);

/// Spread of several baseline runs over training, 100 (max - min) / mean: of the validation losses (as root mean
/// square over five neighbouring points, since two curves that cross are not without noise there) if at least two
/// points are common to all, otherwise of the smoothed training losses. Empty for fewer than two runs.
Curve noise_curve(const std::vector<const RunLog*>& baselines);

/// At most `points` points of a curve, evenly spaced by index, first and last included.
Curve thin(const Curve& curve, std::size_t points);

/// Mean of curves at the steps that all have.
Curve mean_curve(const std::vector<Curve>& curves);

}  // namespace nibble
