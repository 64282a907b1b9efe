// What `nibble cost` prints of runs on several GPUs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "nibble/cost/scaling_curve.h"

namespace nibble {

/// Bytes that a rank sends in a step by what they are, and the time that is spent with them.
std::string communication_text(const CostQuestion& question, const CostEstimate& estimate);
nlohmann::ordered_json communication_json(const CostQuestion& question, const ParallelCost& cost);

std::string scaling_text(const CostQuestion& question, Scaling scaling, const ScalingCurve& curve);
std::string scaling_json(const CostQuestion& question, Scaling scaling, const ScalingCurve& curve);

}  // namespace nibble
