// What a step measured of its linear layers; train/metrics.h logs it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "nibble/recipe/linear.h"

namespace nibble {

/// One layer, or all of them together.
struct LayerTelemetry {
  std::string layer;  ///< empty for all
  LinearQuality operands{};
  std::array<bool, 6> reused{};  ///< operands that are fprop's once more: their figures are fprop's
  LinearProducts products{};
  /// Whether the weight gradient passes a gradient estimator, which changes it on purpose: its distance from the
  /// product of unquantised operands is then no measure of noise.
  bool estimated_gradient = false;
  std::optional<Oscillation> oscillation;
};

struct Telemetry {
  std::vector<LayerTelemetry> layers;
  LayerTelemetry total;     ///< sums over the layers
  ProductQuality gradient;  ///< dW of the layers with a quantised wgrad and a straight-through gradient
  /// rho = |dW| / |Q(dW) - dW| over the sampled rows of these layers; nothing where there are none.
  std::optional<double> gradient_to_noise() const;
};

/// Gathers what the layers measured in the step that has just been done.
Telemetry gather_telemetry(const std::vector<Linear>& linears);

}  // namespace nibble
