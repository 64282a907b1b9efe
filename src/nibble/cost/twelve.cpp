#include "nibble/cost/twelve.h"

namespace nibble {

namespace {

double sum(const std::vector<LayerProduct>& rows, const std::function<double(const LayerProduct&)>& value) {
  double total = 0;
  for (const LayerProduct& row : rows) total += value(row);
  return total;
}

}  // namespace

double LayerProducts::flops() const {
  return sum(rows, [](const LayerProduct& r) { return r.cost.flops; });
}
double LayerProducts::prequantised_seconds() const {
  return sum(rows, [](const LayerProduct& r) { return r.cost.seconds; });
}
double LayerProducts::autocast_seconds() const {
  return sum(rows, [](const LayerProduct& r) { return r.cost.seconds + r.quantise_seconds; });
}
double LayerProducts::bf16_seconds() const {
  return sum(rows, [](const LayerProduct& r) { return r.bf16_seconds; });
}
double LayerProducts::quantise_bytes() const {
  return sum(rows, [](const LayerProduct& r) { return r.quantise_bytes; });
}

LayerProducts layer_products(const std::vector<LinearShape>& linears,
                             const std::function<const LinearRecipe&(const LinearShape&)>& recipe_of,
                             std::int64_t tokens, double weight_passes, const DeviceSpec& device,
                             const CostAssumptions& assumptions) {
  const LinearRecipe bf16 = unquantised_recipe(ElementFormat::BF16).base();
  const auto t = static_cast<double>(tokens);
  LayerProducts products;
  for (const Product product : kAllProducts) {
    for (const LinearShape& shape : linears) {
      const LinearRecipe& recipe = recipe_of(shape);
      LayerProduct row;
      row.linear = shape.name;
      row.product = product;
      row.m = product == Product::Wgrad ? shape.outputs : tokens;
      row.n = product == Product::Fprop ? shape.outputs : shape.inputs;
      row.k = product == Product::Fprop ? shape.inputs : product == Product::Dgrad ? shape.outputs : tokens;
      row.cost = product_cost(recipe, shape, product, t, device);
      row.bf16_seconds = product_cost(bf16, shape, product, t, device).seconds;
      const auto traffic = quantise_traffic(recipe, shape, t, assumptions);
      for (const Operand operand : operands_of(product)) {
        const bool is_weight = operand == Operand::FpropW || operand == Operand::DgradW;
        const OperandTraffic own = traffic[static_cast<std::size_t>(operand)] * (is_weight ? 1 / weight_passes : 1.0);
        row.quantise_bytes += own.bytes();
        row.quantise_seconds += quantise_seconds(own, device);
      }
      products.rows.push_back(std::move(row));
    }
  }
  return products;
}

}  // namespace nibble
