// From values to codes and back. One entry point carries out any QuantSpec; the backend is chosen by the
// tensor's device.
#pragma once

#include "nibble/numerics/philox.h"
#include "nibble/quant/qtensor.h"

namespace nibble {

/// Inputs of `quantize` beside the tensor and the spec. R and C are rows and columns of the result, which with
/// spec.transposed are columns and rows of x.
struct QuantizeContext {
  /// Used by stochastic rounding; the element number is r * element_stride + c + element_offset, a stride of 0 meaning
  /// C. (Block numbers, which Rounding::Eden draws by, are element numbers / 16.)
  RandomStream random{};
  std::uint64_t element_offset = 0;
  std::uint64_t element_stride = 0;
  /// Where the signs of spec.hadamard are drawn from: bit c % 32 of word c / 32 is the sign of column c % group. The
  /// two operands of a product share it.
  RandomStream signs{};
  /// Optional factors multiplied into x before anything else: F32 [x.rows] for row_fold, F32 [x.cols] for col_fold.
  /// This is how a scale that lies along a product's contraction moves into the other operand. Not with `transposed`.
  Tensor row_fold{};
  Tensor col_fold{};
  /// What Rounding::Reference rounds towards: F32, the shape of x, transposed and rotated as x is.
  Tensor reference{};
  /// The result is only multiplied (ops/gemm.h), so it may be stored as a product on its device reads it fastest, with
  /// the same values. The CPU stores it as ever. A GPU stores E2M1 codes under one scale a row as E4M3 elements; under
  /// Nvfp4 as BF16 elements that hold code times block scale and lack tensor_scale and device_scale, which the product
  /// applies; and a matrix under one scale a column as its transpose (QTensor::turned).
  bool for_product = false;
  /// I32, the bits of magnitudes, where the caller knows them: what the scales follow from in place of x's own. Under
  /// one Nvfp4 scale of the tensor the largest of y, from amax_pair with the same x, spec and context or, where x is a
  /// part of a matrix, from shared_amax; under the other rules from shared_amax alone.
  Tensor amax{};
};

/// Q(x) for x [rows, cols] of F32 or BF16, codes and scales allocated from `arena`.
///
///   1. y = x (rounded to BF16 if spec.bf16_input), times the folds, transposed, rotated by spec.hadamard (in F32)
///   2. y_c = clamp(y, lo, hi), in the total order -0 < +0; residual = y - y_c where it is not zero, kept as the spec
///      says. y_c + residual == y exactly wherever y - y_c is a float, as it is for BF16 values within
///      2^16 of the bound; elsewhere the sum is within half a unit of y's last place.
///   3. s per block from y_c by the scale rule, a non-finite amax counting as the largest float; a block of zeros (or
///      with an amax too small for 1/s to be finite) has s = 1 under the rules with F32 scales, and all its elements
///      are zero; the smallest code under the E8M0 rules; nvfp4.zero_scale under Nvfp4, where a scale of 0 decodes to
///      zero whatever the codes. Selection chooses between the two scales of four-over-six by the errors in x's units,
///      summed over the block in F32 in a fixed order.
///   4. code = RND(y_c * (1/s)), saturating; Stochastic takes the upper 24 bits of random.word(element),
///      Stochastic8 takes random.byte(element). Eden rounds to nearest even, then with z = y_c * (1/s) and S = sum z^2
///      / sum z q over each eden_group (1 where the denominator is 0) stores s' = SR_E4M3(s S), up where the upper 24
///      bits of random.word(block number) / 2^24 are below (s S - lo) / (hi - lo). Reference takes the grid neighbour
///      of y_c * (1/s) that is nearer to reference * (1/s), the lower one on a tie.
///   5. the carrier cast, if any: the decoded elements under one AbsmaxPow2 scale of the tensor; a dense residual makes
///      the result BF16(dequantised + residual); a fused one E4M3 elements under the scales of 3: E4M3(code) within
///      the bounds, E4M3(y * (1/s)) to nearest even beyond them, whatever spec.rounding
///
/// Int4 and E3M0 round nearest (every tie rule; E3M0's midpoints are arithmetic means) or Stochastic. The tie rules
/// beside NearestEven, stochastic rounding, Nvfp4, Quest rules and the carrier are for four-bit elements. A fused
/// residual takes no carrier and no trust mask. A dimension
/// that the transform's group does not divide is refused. All arithmetic in F32, every operation rounded once, so the
/// codes are the same bits on every CPU, thread count and backend. Non-finite inputs saturate (NaN as the rounding rule
/// says) and are not detected here. Codes and scales of a finite input are finite; a decoded value can overflow only
/// where x rounds up to 2^128.
QTensor quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena);

/// What the scales of a pair of operands of x [R, C], one by rows and one by columns, follow from: I32, the bits of
/// magnitudes.
///
///     of_rows[r] = max_c |x[r, c] * col_fold[c]|        of_cols[c] = max_r |x[r, c] * row_fold[r]|
///
/// Folds are F32 [C] and [R], both or neither; undefined ones count as 1. Whoever writes x can raise the magnitudes as
/// he does so, which saves the pass that would find them.
struct PairMagnitudes {
  Tensor col_fold, row_fold;
  Tensor of_rows, of_cols;
  bool defined() const { return of_rows.defined(); }
};

struct QuantizedPair {
  QTensor first, second;
};
/// { quantize(x, a, in_a, arena), quantize(x, b, in_b, arena) }, bit for bit. A GPU shares passes over x: for FP8
/// elements under an Absmax scale a row (a, with a col_fold or none) and a column (b, for_product, with a row_fold
/// where a has its fold), and where amax_pair finds what both ask for. `known`: what pair_magnitudes gave for the same
/// pair, raised to those of x.
QuantizedPair quantize_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                            const QuantizeContext& in_b, Arena& arena, const PairMagnitudes& known = {});

/// Magnitudes of zero, from `arena`, where quantize_pair of an x of this shape and dtype, whose memory is not looked
/// at, takes them as known; else undefined.
PairMagnitudes pair_magnitudes(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                               const QuantizeContext& in_b, Arena& arena);
/// Raises them to those of x by a pass over it. F32 or BF16 on a GPU, rows and columns multiples of 16.
void raise_magnitudes(const Tensor& x, const PairMagnitudes& magnitudes);

/// The amax of y by each of two specs, I32 [1] on a GPU that holds the bits of a float.
struct AmaxPair {
  Tensor first, second;
};
/// Both by one pass over x, on a GPU, where both specs have Nvfp4 under one scale of the tensor, a blocks of x's rows
/// or squares as they are, b those of its transpose, rotated or not; without folds and clamps. Elsewhere both are
/// undefined, and each call of quantize finds its own. The signs of both contexts count, their random numbers do not.
AmaxPair amax_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                   const QuantizeContext& in_b, Arena& arena);

/// Where x is some rows of a matrix [.., cols] whose other rows are elsewhere, the scales that cover all of its rows
/// follow from a maximum over the parts: `shared_amax` of each part, the largest of each entry, and that as
/// QuantizeContext::amax of every part give codes and scales of the whole matrix. How many entries that are:
///
///   Nvfp4 under one scale of the tensor                        1
///   blocks as tall as the matrix ([0, b], with `transposed`    one a block
///   as wide: [b, 0]), rules that follow from an amax
///   other scales: each part has its own                        0
std::int64_t shared_amaxes(const QuantSpec& spec, std::int64_t cols);
/// amax (I32 [shared_amaxes]) = the bits of the largest magnitude of y, or of each block of it; 0 for no rows. The spec
/// has no clamp; its rounding, the random numbers and the reference of the context do not count.
void shared_amax(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, const Tensor& amax,
                 Arena& scratch);

/// out[r, c] = value (plus residual where there is one), still transposed and rotated; out is F32 or BF16 [rows, cols].
void dequantize(const QTensor& q, const Tensor& out);

/// Quality of a quantised operand against its source, both in the coordinates of the result (transposed, rotated).
struct QuantQuality {
  double signal = 0;     ///< sum of x^2
  double noise = 0;      ///< sum of (x - Q(x))^2
  double dot = 0;        ///< sum of x * Q(x)
  double quantised = 0;  ///< sum of Q(x)^2
  double error = 0;      ///< sum of Q(x) - x
  double magnitude = 0;  ///< sum of |x|
  std::int64_t count = 0;
  std::int64_t underflow = 0;  ///< x != 0 became 0
  std::int64_t clamped = 0;    ///< entries beyond the clamp (nnz of the residual)
  std::int64_t clipped = 0;  ///< entries beyond the largest element, |x| > element_max * s by more than rounding, after
                             ///< the clamp
  std::int64_t blocks = 0;   ///< scales; those of 8 bits also count as
  std::int64_t scale_saturated = 0;  ///< ... the format's largest (a block of its own amax above it)
  std::int64_t scale_underflow = 0;  ///< ... zero or the smallest, though the block is not zero

  double snr_db() const;  ///< 10 log10(signal / noise); +infinity when exact
  double cosine() const;
  double relative_mse() const;                                              ///< noise / signal
  double bias() const { return magnitude == 0 ? 0.0 : error / magnitude; }  ///< mean of Q(x) - x over mean |x|
  double clamped_share() const { return count == 0 ? 0.0 : static_cast<double>(clamped) / static_cast<double>(count); }
  void merge(const QuantQuality& other);
};
/// x as given to `quantize`, with the same context: Q(x), residual included, is held against x times the folds, so
/// rounding to BF16 on the way in counts as noise. The clamped share is counted against the spec also where the
/// residual is dropped.
QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch);

}  // namespace nibble
