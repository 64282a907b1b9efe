#include "nibble/recipe/product_quality.h"

#include <cmath>
#include <limits>

namespace nibble {

double ProductQuality::cosine() const {
  if (exact == 0 || computed == 0) return exact == computed ? 1.0 : 0.0;
  return dot / std::sqrt(exact * computed);
}

double ProductQuality::magnitude() const {
  if (exact == 0) return computed == 0 ? 1.0 : std::numeric_limits<double>::infinity();
  return std::sqrt(computed / exact);
}

double ProductQuality::rho() const {
  return noise == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(exact / noise);
}

void ProductQuality::merge(const ProductQuality& other) {
  exact += other.exact;
  computed += other.computed;
  dot += other.dot;
  noise += other.noise;
  count += other.count;
}

}  // namespace nibble
