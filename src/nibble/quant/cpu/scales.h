// From the values of a block to its stored scale and to the factor that its elements are encoded with: the rules with
// one level of scales. Those with two: nvfp4_scales.h.
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
/// The magnitude as a number; infinity and NaN count as the largest float.
float amax_value(AmaxBits bits);

/// What a rule asks of a block beside its amax: sum of x or of |x|, and sum of x^2.
enum class Moments : std::uint8_t { None, Signed, Absolute };
Moments moments_of(ScaleRule rule);
/// sum[j] += the sum over block j of y[0, n), squares[j] likewise. F32: lane l of sixteen adds the columns l, l + 16,
/// ... of the block, then the lanes are added by halves. A block of several rows adds them one after the other.
void add_moments(const float* y, std::int64_t n, std::int64_t block, Moments moments, float* sum, float* squares);

/// Statistics of the n blocks of one row of blocks, one entry a block.
struct BlockStatistics {
  const AmaxBits* amax = nullptr;
  const float* sum = nullptr;  ///< sum and squares where the rule asks for moments
  const float* squares = nullptr;
  float count = 0;       ///< elements of a block
  float last_count = 0;  ///< and of the last one
};

/// The stored scales at stored[first, first + n) (F32 or U8, by the rule) and what elements are multiplied by.
void block_scales(ScaleRule rule, ElementFormat element, const BlockStatistics& statistics, std::int64_t n,
                  const Tensor& stored, std::int64_t first, float* multiplier);
/// E8M0 from the exponent of amax (that of the smallest normal for subnormals, which then clamps to -127), less
/// `below`, plus one from the mantissa `up` on, less one under the mantissa `down`. Mantissas are the 23 stored bits.
struct Pow2Rounding {
  std::int32_t below = 0;
  std::int32_t up = 1 << 23;  ///< never
  std::int32_t down = 0;      ///< never
  float factor = 1;           ///< on the multiplier
};

/// For OcpFloor, Ceil6, Nearest6 and RangeMatch34.
Pow2Rounding pow2_rounding(ScaleRule rule, float element_max);
/// A factor on all values of the tensor that the rule keeps apart from its scales.
float constant_factor(ScaleRule rule);

/// out[i] = values[i / block] for i in [0, n).
void expand_blocks(const float* values, std::int64_t block, std::int64_t n, float* out);

}  // namespace nibble::quant_cpu
