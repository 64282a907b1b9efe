// From the largest magnitude of a block to its stored scale and to the factor that its elements are encoded with.
#pragma once

#include "nibble/quant/qtensor.h"

namespace nibble::quant_cpu {

/// Magnitudes are compared as the bits of |x|: they order as the values do, infinity and NaN on top, and an
/// integer maximum is associative, so it vectorises and needs no fixed order. 0 is the identity.
using AmaxBits = std::int32_t;

/// Largest magnitude of y[0, n).
AmaxBits amax_of(const float* y, std::int64_t n);
AmaxBits amax_of_bf16(const std::uint16_t* x, std::int64_t n);
/// amax[j] = max(amax[j], largest magnitude of block j), blocks of `block` consecutive elements of y[0, n).
void amax_of_blocks(const float* y, std::int64_t n, std::int64_t block, AmaxBits* amax);
void max_into(const AmaxBits* from, std::int64_t n, AmaxBits* into);
/// The magnitude as a number; infinity and NaN count as the largest float.
float amax_value(AmaxBits bits);

/// A scale rule with what it knows of the whole tensor.
class Scaler {
 public:
  /// `tensor_amax` matters to Nvfp4 alone.
  Scaler(ScaleRule rule, ElementFormat element, AmaxBits tensor_amax);

  /// For blocks [0, n): the stored scales at stored[first...] (F32 or U8, by the format) and the factors.
  void operator()(const AmaxBits* amax, std::int64_t n, const Tensor& stored, std::int64_t first,
                  float* multiplier) const;
  float tensor_scale() const { return tensor_scale_; }

 private:
  ScaleRule rule_;
  float element_max_;
  float tensor_scale_ = 1.0f;
  float block_factor_ = 1.0f;  // amax times this is the UE4M3 scale of Nvfp4
};

/// out[i] = values[i / block] for i in [0, n).
void expand_blocks(const float* values, std::int64_t block, std::int64_t n, float* out);

}  // namespace nibble::quant_cpu
