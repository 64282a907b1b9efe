// The scaling law that Quartet (Castro et al. 2025, section 4.2) measures low-precision training with:
//
//   L(N, D) = (A / (N effN)^alpha + B / (D effD)^beta)^gamma + E
//
// L is the validation loss in nats, N the parameters without embedding and head, D the training tokens. A, alpha, B,
// beta, E and gamma belong to model family and data; they are fitted to runs in high precision, whose effN = effD = 1.
// A recipe is then two numbers: its model learns as one of N effN parameters would, from what D effD tokens would
// teach.
#pragma once

#include <array>

namespace nibble {

struct ScalingLaw {
  double A = 0;
  double alpha = 0;
  double B = 0;
  double beta = 0;
  double E = 0;
  double gamma = 0;
};

inline constexpr std::array<const char*, 6> kLawConstantNames = {"A", "alpha", "B", "beta", "E", "gamma"};
std::array<double, 6> law_constants(const ScalingLaw& law);  ///< in the order of kLawConstantNames
ScalingLaw law_of_constants(const std::array<double, 6>& constants);

struct Efficiency {
  double n = 1;  ///< effN, what the forward pass leaves of the parameters
  double d = 1;  ///< effD, what the backward pass leaves of the tokens
};

/// L(N, D). Requires positive arguments.
double predict_loss(const ScalingLaw& law, double params, double tokens, const Efficiency& efficiency = {});

/// The D at which L(N, D) = loss; infinity where no number of tokens brings a model of N parameters that far.
double tokens_for_loss(const ScalingLaw& law, double params, double loss, const Efficiency& efficiency = {});

/// What a recipe costs at one (N, D).
struct Prediction {
  double loss = 0;           ///< of the recipe
  double baseline_loss = 0;  ///< with effN = effD = 1
  /// D / D', where the baseline needs only D' tokens for the recipe's loss.
  double token_factor = 0;
  /// D'' / D, where the recipe needs D'' tokens for the baseline's loss; infinity where none are enough.
  double catch_up_factor = 0;

  double gap() const { return loss - baseline_loss; }                          ///< nats
  double gap_percent() const { return 100.0 * (loss / baseline_loss - 1.0); }  ///< as `nibble compare` states it
};
Prediction predict(const ScalingLaw& law, double params, double tokens, const Efficiency& efficiency);

}  // namespace nibble
