// What quantisation does to the products of a linear layer and to its weight from step to step.
#pragma once

#include <array>
#include <cstdint>

#include "nibble/tensor/tensor.h"

namespace nibble {

/// A product as it was computed, q, against the same product of unquantised operands, p, on a sample of its rows.
struct ProductQuality {
  double exact = 0;     ///< sum of p^2
  double computed = 0;  ///< sum of q^2
  double dot = 0;       ///< sum of p q
  double noise = 0;     ///< sum of (q - p)^2
  std::int64_t count = 0;

  double cosine() const;     ///< 1 where both are zero, 0 where one is
  double magnitude() const;  ///< |q| / |p|; 1 where both are zero
  double rho() const;        ///< |p| / |q - p|, infinite where equal: for dW the gradient-to-noise ratio
  void merge(const ProductQuality& other);
};
/// fprop, dgrad, wgrad.
using LinearProducts = std::array<ProductQuality, 3>;

/// How much the quantised weight moves for what the weight moves: sum |delta Q(w)| / sum |delta w| from one step to the
/// next, over a sample of rows.
struct Oscillation {
  double quantised = 0;
  double weight = 0;
  double ratio() const { return weight == 0 ? 0.0 : quantised / weight; }
};

/// p = exact (F32), q = computed (F32 or BF16) minus `before` (F32, undefined = 0): what a product that was added to
/// `before` contributed. All of one shape.
ProductQuality compare_products(const Tensor& exact, const Tensor& computed, const Tensor& before);
/// sum |a - b| of two F32 tensors of one shape.
double sum_of_distances(const Tensor& a, const Tensor& b);

}  // namespace nibble
