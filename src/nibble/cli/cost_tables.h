// What `nibble cost` prints: tables for people, JSON for programs.
#pragma once

#include <string>
#include <vector>

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
/// The total memory of a run by recipe, optimizer and level of recomputation, and the most sequences a pass that fit.
std::string memory_matrix(const CostQuestion& question, const std::vector<Recipe>& recipes);
std::string cost_json(const CostQuestion& question, const CostEstimate& estimate, const CostLoss& loss);

}  // namespace nibble
