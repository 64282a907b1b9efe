// A fitted law as drawings and as one self-contained page.
#pragma once

#include <string>
#include <vector>

#include "nibble/report/svg.h"
#include "nibble/scaling/fit.h"
#include "nibble/scaling/precision_map.h"

namespace nibble {

/// Loss against D / N: the points, and a fitted curve for every recipe and model size that has points; the baseline's
/// are labelled with N. Recipes without a fit are left out.
LineChart loss_chart(const ScalingFit& fit, const std::vector<LossPoint>& points);

/// The best precision of every cell: 8:8, 4:8, 8:4 or 4:4 (forward:backward), the stronger coloured the more of it is
/// the last in the list.
HeatMap precision_chart(const PrecisionMap& map, const std::string& recipe);

/// A drawing of report/svg.h as a file of its own: namespace and style sheet inside.
std::string standalone_svg(const std::string& drawing);

/// Constants and efficiencies with their intervals, the loss chart, and a precision map for every recipe that has both
/// effN and effD.
std::string scaling_page(const ScalingFit& fit, const std::vector<LossPoint>& points,
                         const std::vector<Precision>& precisions);

/// "0.611 to 0.697", with three significant digits; "-" where there is none. A bound at the end of the range in which
/// effN and effD are sought is "0" or "inf".
std::string format_efficiency_interval(const Interval& interval);

}  // namespace nibble
