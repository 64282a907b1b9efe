#include "nibble/scaling/law.h"

#include <cmath>
#include <limits>

#include "nibble/tensor/error.h"

namespace nibble {

std::array<double, 6> law_constants(const ScalingLaw& law) {
  return {law.A, law.alpha, law.B, law.beta, law.E, law.gamma};
}

ScalingLaw law_of_constants(const std::array<double, 6>& c) { return {c[0], c[1], c[2], c[3], c[4], c[5]}; }

double predict_loss(const ScalingLaw& law, double params, double tokens, const Efficiency& efficiency) {
  require(params > 0 && tokens > 0 && efficiency.n > 0 && efficiency.d > 0,
          "the scaling law is not defined at N = {}, D = {}, effN = {}, effD = {}", params, tokens, efficiency.n,
          efficiency.d);
  const double of_model = law.A * std::pow(params * efficiency.n, -law.alpha);
  const double of_data = law.B * std::pow(tokens * efficiency.d, -law.beta);
  return std::pow(of_model + of_data, law.gamma) + law.E;
}

double tokens_for_loss(const ScalingLaw& law, double params, double loss, const Efficiency& efficiency) {
  if (loss <= law.E) return std::numeric_limits<double>::infinity();
  const double of_model = law.A * std::pow(params * efficiency.n, -law.alpha);
  const double of_data = std::pow(loss - law.E, 1.0 / law.gamma) - of_model;
  if (of_data <= 0) return std::numeric_limits<double>::infinity();
  return std::pow(law.B / of_data, 1.0 / law.beta) / efficiency.d;
}

Prediction predict(const ScalingLaw& law, double params, double tokens, const Efficiency& efficiency) {
  Prediction prediction;
  prediction.loss = predict_loss(law, params, tokens, efficiency);
  prediction.baseline_loss = predict_loss(law, params, tokens);
  prediction.token_factor = tokens / tokens_for_loss(law, params, prediction.loss);
  prediction.catch_up_factor = tokens_for_loss(law, params, prediction.baseline_loss, efficiency) / tokens;
  return prediction;
}

}  // namespace nibble
