// The clamp: exact quantiles of a row or of the tensor, and y_c with a note of what lies outside.
//
// Floats are compared by ordered keys: the bits of non-negative values as they are, those of negative values with
// all but the sign inverted. Keys order as the values do, with -0 just below +0 and NaN at the ends.
#pragma once

#include "nibble/quant/cpu/source.h"

namespace nibble::quant_cpu {

NIBBLE_FN std::int32_t ordered_key(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7FFF'FFFF); }
NIBBLE_FN std::int16_t ordered_key(std::int16_t bits) {
  return static_cast<std::int16_t>(bits ^ ((bits >> 15) & 0x7FFF));
}
NIBBLE_FN std::int32_t float_key(float x) { return ordered_key(static_cast<std::int32_t>(float_bits(x))); }
NIBBLE_FN float key_float(std::int32_t key) { return bits_float(static_cast<std::uint32_t>(ordered_key(key))); }

/// Positions of the two bounds among n sorted values.
struct QuantileIndex {
  std::int64_t low = 0;
  std::int64_t high = 0;
  /// How many values can lie outside the bounds.
  std::int64_t outside(std::int64_t n) const { return low + (n - 1 - high); }
};
QuantileIndex quantile_index(double alpha, std::int64_t n);

/// The two bounds as keys.
template <class Key>
struct KeyBounds {
  Key low = 0;
  Key high = 0;
};

/// Finds the bounds of rows one after the other. A row's search starts from the last row's bounds, which changes
/// how fast the answer is found, not the answer.
template <class Key>
class QuantileSearch {
 public:
  QuantileSearch(double alpha, std::int64_t n) : n_(n), index_(quantile_index(alpha, n)) {}
  /// Bounds of the n keys.
  KeyBounds<Key> operator()(const Key* keys);

 private:
  std::int64_t n_;
  QuantileIndex index_;
  KeyBounds<Key> last_;
  bool warm_ = false;
};

/// Bounds over all entries of the source.
KeyBounds<std::int32_t> tensor_bounds(const Source& source, double alpha);

void to_keys(const float* y, std::int64_t n, std::int32_t* keys);
void to_keys(const std::uint16_t* x, std::int64_t n, std::int16_t* keys);

/// out[i] = y[i] within the bounds.
void clamp_row(const float* y, KeyBounds<std::int32_t> bounds, std::int64_t n, float* out);
/// Bit i of `outside` (64 to a word, the rest of the last word 0): y[i] is beyond the bounds.
void mark_outside(const float* y, KeyBounds<std::int32_t> bounds, std::int64_t n, std::uint64_t* outside);

}  // namespace nibble::quant_cpu
