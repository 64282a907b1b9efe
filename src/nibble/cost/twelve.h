// The products of one layer, one by one, with the operands quantised beforehand and on the fly: the accounting of
// NVIDIA's Transformer Engine benchmark (four linear layers, three products each).
#pragma once

#include <functional>

#include "nibble/cost/step.h"

namespace nibble {

struct LayerProduct {
  std::string linear;
  Product product = Product::Fprop;
  std::int64_t m = 0, n = 0, k = 0;  ///< [m, k] times [k, n]
  ProductCost cost;
  double quantise_bytes = 0;
  double quantise_seconds = 0;  ///< of its two operands
  double bf16_seconds = 0;      ///< the same product in BF16
};

struct LayerProducts {
  std::vector<LayerProduct> rows;
  double flops() const;
  double prequantised_seconds() const;
  double autocast_seconds() const;  ///< products and quantising
  double bf16_seconds() const;
  double quantise_bytes() const;
};

/// W is quantised once for `weight_passes` passes of `tokens` tokens; the benchmark quantises it every time (1).
LayerProducts layer_products(const std::vector<LinearShape>& linears,
                             const std::function<const LinearRecipe&(const LinearShape&)>& recipe_of,
                             std::int64_t tokens, double weight_passes, const DeviceSpec& device,
                             const CostAssumptions& assumptions);

}  // namespace nibble
