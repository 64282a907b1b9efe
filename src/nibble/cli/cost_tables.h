// What `nibble cost` prints: tables for people, JSON for programs.
#pragma once

#include <string>

#include "nibble/cost/estimate.h"
#include "nibble/scaling/law.h"

namespace nibble {

/// The recipe's loss by a scaling law.
struct CostLoss {
  bool known = false;
  std::string law;         ///< title
  std::string efficiency;  ///< where effN and effD come from
  Efficiency values;
  Prediction prediction;
  double token_factor() const;  ///< NaN where not known
};

std::string cost_text(const CostQuestion& question, const CostEstimate& estimate, const CostLoss& loss);
std::string cost_json(const CostQuestion& question, const CostEstimate& estimate, const CostLoss& loss);

}  // namespace nibble
