#include "nibble/train/telemetry.h"

namespace nibble {

std::optional<double> Telemetry::gradient_to_noise() const {
  return gradient.count > 0 ? std::optional(gradient.rho()) : std::nullopt;
}

Telemetry gather_telemetry(const std::vector<Linear>& linears) {
  Telemetry telemetry;
  for (const Linear& linear : linears) {
    LayerTelemetry& layer = telemetry.layers.emplace_back();
    layer.layer = linear.name();
    layer.operands = linear.quality();
    layer.products = linear.products();
    layer.oscillation = linear.oscillation();
    layer.estimated_gradient = linear.recipe().weight_gradient.estimator != WeightGradient::Estimator::StraightThrough;
    if (!layer.estimated_gradient) telemetry.gradient.merge(layer.products[2]);
    for (Operand o : kAllOperands) {
      layer.reused[static_cast<std::size_t>(o)] = linear.recipe()[o].source == OperandSource::Fprop;
    }
    LayerTelemetry& total = telemetry.total;
    for (std::size_t o = 0; o < total.operands.size(); ++o) total.operands[o].merge(layer.operands[o]);
    for (std::size_t p = 0; p < total.products.size(); ++p) total.products[p].merge(layer.products[p]);
    if (layer.oscillation) {
      if (!total.oscillation) total.oscillation.emplace();
      total.oscillation->quantised += layer.oscillation->quantised;
      total.oscillation->weight += layer.oscillation->weight;
    }
  }
  return telemetry;
}

}  // namespace nibble
