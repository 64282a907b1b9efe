#include "nibble/cost/traffic.h"

#include <algorithm>

#include "nibble/recipe/linear_contract.h"

namespace nibble {

namespace {

constexpr double kResidualBytes = 8;  // an I32 column and an F32 value
constexpr double kDgeOperations = 8;  // as Wang et al. 2025 count them
constexpr double kAverageOperations = 3;

Operand source_of(Operand operand) {
  switch (operand) {
    case Operand::FpropX:
    case Operand::WgradX: return Operand::FpropX;
    case Operand::FpropW:
    case Operand::DgradW: return Operand::FpropW;
    case Operand::DgradDy:
    case Operand::WgradDy: break;
  }
  return Operand::DgradDy;
}

/// X [T, K], W [N, K] or dY [T, N].
struct SourceExtent {
  std::int64_t columns;
  double elements;
};

SourceExtent extent_of(Operand operand, const LinearShape& shape, double tokens) {
  const Operand source = source_of(operand);
  const std::int64_t columns = source == Operand::DgradDy ? shape.outputs : shape.inputs;
  const double rows = source == Operand::FpropW ? static_cast<double>(shape.outputs) : tokens;
  return {columns, rows * static_cast<double>(columns)};
}

}  // namespace

OperandTraffic& OperandTraffic::operator+=(const OperandTraffic& other) {
  bytes_read += other.bytes_read;
  bytes_written += other.bytes_written;
  operations += other.operations;
  return *this;
}

OperandTraffic OperandTraffic::operator*(double factor) const {
  return {bytes_read * factor, bytes_written * factor, operations * factor};
}

bool needs_amax_pass(const QuantSpec& spec) {
  if (!has_scale(spec.element)) return false;
  const std::int64_t across = spec.transposed ? spec.granularity.cols : spec.granularity.rows;
  const bool tensor_scale = spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer == 0;
  return across == 0 || tensor_scale || spec.carrier != ElementFormat::BF16 ||
         (spec.clamp.enabled() && !spec.clamp.per_row);
}

std::array<OperandTraffic, 6> quantise_traffic(const LinearRecipe& recipe, const LinearShape& shape, double tokens,
                                               const CostAssumptions& assumptions) {
  std::array<OperandTraffic, 6> traffic;
  std::array<bool, 6> read{};  // by source: read once already
  std::array<bool, 6> amax_pass{};
  for (const Operand operand : kAllOperands) {
    const auto o = static_cast<std::size_t>(operand);
    const Operand source = source_of(operand);
    const auto s = static_cast<std::size_t>(source);
    const bool is_weight = source == Operand::FpropW;
    const auto [columns, elements] = extent_of(operand, shape, tokens);
    const QuantSpec& spec = effective_spec(recipe, operand);
    const double stored = stored_bits(spec, columns) / 8 * elements;
    if (recipe[operand].source == OperandSource::Fprop) {
      if (assumptions.transposed_copies && has_scale(spec.element)) traffic[o].bytes_written = stored;
      continue;
    }
    const double source_bytes = is_weight ? assumptions.weight_source_bytes : assumptions.activation_source_bytes;
    // One BF16 copy of W serves both products.
    const bool is_copy = operand == Operand::DgradW && recipe[Operand::FpropW].quant.element == ElementFormat::BF16;
    const bool converts = is_weight && spec.element == ElementFormat::BF16 && source_bytes > 2 && !is_copy;
    if (!has_scale(spec.element) && !converts) continue;
    const double copies = operand == Operand::WgradDy ? recipe[operand].samples : 1;
    const bool again = recipe[operand].source == OperandSource::Requantise;
    const bool separate_amax = needs_amax_pass(spec) && !assumptions.fused;
    if (again) {
      const double saved = stored_bits(recipe[source].quant, columns) / 8 * elements;
      traffic[o].bytes_read = saved * (separate_amax ? 2 : 1);
    } else {
      if (!read[s]) traffic[o].bytes_read += source_bytes * elements;
      if (separate_amax && !amax_pass[s]) traffic[o].bytes_read += source_bytes * elements;
      read[s] = true;
      amax_pass[s] = amax_pass[s] || separate_amax;
    }
    traffic[o].bytes_written = copies * stored;
    if (operand == Operand::FpropX) traffic[o].bytes_written += kResidualBytes * residual_density(recipe) * elements;
    traffic[o].operations = copies * quantise_ops(spec) * elements;
  }
  return traffic;
}

OperandTraffic update_traffic(const LinearRecipe& recipe, const LinearShape& shape) {
  OperandTraffic traffic;
  const double weights = shape.weights();
  if (recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge) {
    traffic += {8 * weights, 4 * weights, kDgeOperations * weights};
  }
  if (recipe.weight_average.enabled()) traffic += {8 * weights, 4 * weights, kAverageOperations * weights};
  return traffic;
}

double rewritten_bytes(const LinearRecipe& recipe, const LinearShape& shape, Product product, double tokens,
                       const ProductPath& path) {
  if (!path.rewrites) return 0;
  double bytes = 0;
  for (const Operand operand : operands_of(product)) {
    const auto [columns, elements] = extent_of(operand, shape, tokens);
    bytes += (stored_bits(effective_spec(recipe, operand), columns) / 8 + 1) * elements;
  }
  return bytes;
}

RotatedBytes rotated_bytes(const LinearRecipe& recipe, const LinearShape& shape, double tokens) {
  const auto mask_bytes = [&](Operand operand) { return recipe[operand].quant.trust_mask ? 1.0 / 8 : 0.0; };
  RotatedBytes bytes;
  if (rotates_dx_back(recipe)) {
    bytes.dx = (2 + 2 + mask_bytes(Operand::FpropX)) * tokens * static_cast<double>(shape.inputs);
  }
  if (rotates_dw_back(recipe)) bytes.dw = (4 + 4 + mask_bytes(Operand::FpropW)) * shape.weights();
  return bytes;
}

double quantise_seconds(const OperandTraffic& traffic, const DeviceSpec& device) {
  const double moving = traffic.bytes() / (device.bandwidth * device.quantise_achieved);
  return std::max(moving, traffic.operations / device.rate(Unit::F32));
}

}  // namespace nibble
