// From values to codes and back. One entry point carries out any QuantSpec; the backend is chosen by the
// tensor's device.
#pragma once

#include "nibble/numerics/philox.h"
#include "nibble/quant/qtensor.h"

namespace nibble {

/// Inputs of `quantize` beside the tensor and the spec.
struct QuantizeContext {
  /// Used by stochastic rounding; the element number is r * cols + c + element_offset.
  RandomStream random;
  std::uint64_t element_offset = 0;
  /// Optional factors multiplied into x before anything else: F32 [rows] for row_fold, F32 [cols] for col_fold.
  /// This is how a scale that lies along a product's contraction moves into the other operand.
  Tensor row_fold;
  Tensor col_fold;
};

/// Q(x) for x [rows, cols] of F32 or BF16, codes and scales allocated from `arena`.
///
///   1. y = x (rounded to BF16 if spec.bf16_input), times the folds
///   2. y_c = clamp(y, lo, hi), in the total order -0 < +0; residual = y - y_c where it is not zero, kept as CSR if
///      the spec says so. y_c + residual == y exactly wherever y - y_c is a float, as it is for BF16 values within
///      2^16 of the bound; elsewhere the sum is within half a unit of y's last place.
///   3. s per block from amax(y_c), a non-finite amax counting as the largest float; a block of zeros (or with an
///      amax too small for 1/s to be finite) has s = 1 under Absmax and AbsmaxPow2, and all its elements are zero;
///      the smallest code under OcpFloor and Ceil6; 0 under Nvfp4, where it decodes to zero whatever the codes
///   4. code = RND(y_c * (1/s)), saturating; Stochastic takes the upper 24 bits of random.word(element),
///      Stochastic8 takes random.byte(element)
///   5. the carrier cast, if any: the decoded elements under one AbsmaxPow2 scale of the tensor
///
/// Stochastic rounding, the tie rules beside NearestEven, OcpFloor, Ceil6, Nvfp4 and the carrier are for E2M1.
/// All arithmetic in F32, every operation rounded once, so the codes are the same bits on every CPU, thread
/// count and backend. Non-finite inputs saturate (NaN as the rounding rule says) and are not detected here. Codes
/// and scales of a finite input are finite; a decoded value can overflow only where x rounds up to 2^128.
QTensor quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena);

/// out[r, c] = value (plus residual where there is one); out is F32 or BF16 [rows, cols].
void dequantize(const QTensor& q, const Tensor& out);

/// Quality of a quantised operand against its source.
struct QuantQuality {
  double signal = 0;     ///< sum of x^2
  double noise = 0;      ///< sum of (x - Q(x))^2
  double dot = 0;        ///< sum of x * Q(x)
  double quantised = 0;  ///< sum of Q(x)^2
  std::int64_t count = 0;
  std::int64_t underflow = 0;  ///< x != 0 became 0
  std::int64_t clamped = 0;    ///< entries beyond the clamp (nnz of the residual)

  double snr_db() const;  ///< 10 log10(signal / noise); +infinity when exact
  double cosine() const;
  double relative_mse() const;  ///< noise / signal
  double clamped_share() const { return count == 0 ? 0.0 : static_cast<double>(clamped) / static_cast<double>(count); }
  void merge(const QuantQuality& other);
};
/// x as given to `quantize`, with the same context: Q(x), residual included, is held against x times the folds, so
/// rounding to BF16 on the way in counts as noise. The clamped share is counted against the spec also where the
/// residual is dropped.
QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch);

}  // namespace nibble
