#include "nibble/train/gradient_scaling.h"

#include <algorithm>
#include <cmath>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr double kMostSaturated = 1e-5;
constexpr double kStepsToDouble = 1000;

}  // namespace

GradientScaling::GradientScaling(ExchangeScaling rule, int ranks)
    : rule_(rule), ranks_(ranks), factor_(1 / std::sqrt(static_cast<double>(ranks))) {}

float GradientScaling::divisor() const {
  return adapts() ? static_cast<float>(1 / factor_) : std::sqrt(static_cast<float>(ranks_));
}

void GradientScaling::after_step(double saturated) {
  if (!adapts()) return;
  factor_ = saturated > kMostSaturated ? factor_ / 2 : std::min(1.0, factor_ * std::exp2(1 / kStepsToDouble));
}

void GradientScaling::restore(double factor) {
  require(factor > 0 && factor <= 1, "a factor of gradients of {}", factor);
  factor_ = factor;
}

}  // namespace nibble
