#include "nibble/train/telemetry.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace nibble {

namespace {

constexpr const char* kProductNames[] = {"fprop", "dgrad", "wgrad"};

/// JSON has no infinity: null stands for a figure that is exact.
nlohmann::ordered_json finite_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

double share(std::int64_t part, std::int64_t all) {
  return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(all, 1));
}

nlohmann::ordered_json operand_json(const QuantQuality& q) {
  return {{"snr_db", finite_or_null(q.snr_db())},
          {"cosine", q.cosine()},
          {"relative_mse", q.relative_mse()},
          {"underflow", share(q.underflow, q.count)},
          {"clamped", q.clamped_share()},
          {"clipped", share(q.clipped, q.count)},
          {"bias", q.bias()},
          {"scale_saturated", share(q.scale_saturated, q.blocks)},
          {"scale_underflow", share(q.scale_underflow, q.blocks)}};
}

nlohmann::ordered_json operands_json(const LinearQuality& operands) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (Operand o : kAllOperands) {
    const QuantQuality& q = operands[static_cast<std::size_t>(o)];
    if (q.count > 0) json[operand_name(o)] = operand_json(q);
  }
  return json;
}

void add_products(const LayerTelemetry& layer, nlohmann::ordered_json& json) {
  nlohmann::ordered_json products = nlohmann::ordered_json::object();
  for (std::size_t p = 0; p < layer.products.size(); ++p) {
    const ProductQuality& q = layer.products[p];
    if (q.count == 0) continue;
    products[kProductNames[p]] = {
        {"cosine", q.cosine()}, {"magnitude", q.magnitude()}, {"noise", finite_or_null(1 / q.rho())}};
  }
  if (!products.empty()) json["products"] = std::move(products);
  if (layer.oscillation) json["oscillation"] = layer.oscillation->ratio();
}

}  // namespace

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

void add_telemetry(const Telemetry& telemetry, nlohmann::ordered_json& line) {
  line["quality"] = operands_json(telemetry.total.operands);
  add_products(telemetry.total, line);
  if (const auto rho = telemetry.gradient_to_noise()) line["gradient_to_noise"] = finite_or_null(*rho);
  nlohmann::ordered_json layers = nlohmann::ordered_json::object();
  for (const LayerTelemetry& layer : telemetry.layers) {
    nlohmann::ordered_json json = operands_json(layer.operands);
    add_products(layer, json);
    layers[layer.layer] = std::move(json);
  }
  line["layers"] = std::move(layers);
}

}  // namespace nibble
