// QuantSpec: everything a recipe can say about one operand of one product. It is plain data; `quantize`
// (quantize.h) carries it out, and recipe files (recipe/recipe.h) spell it in TOML.
#pragma once

#include <cstdint>

#include "nibble/numerics/rounding.h"

namespace nibble {

/// Format of the stored elements. The four-bit formats are a sign bit and three bits of magnitude:
///
///   E2M1   0 0.5 1 1.5 2 3 4 6       FP4
///   Int4   0 1 2 3 4 5 6 7           symmetric INT4 (E1M2 up to a factor 2)
///   E3M0   0 .25 .5 1 2 4 8 16       powers of two: LUQ's FP4 [1,3,0]
enum class ElementFormat : std::uint8_t { F32, BF16, E2M1, Int4, E3M0, E4M3, E5M2 };

/// Largest finite magnitude of an element format that takes a scale (6, 7, 16, 448, 57344); 0 for F32 and BF16.
float element_max(ElementFormat element);
/// Bits a stored element takes: 32, 16, 4, 4, 4, 8, 8.
int element_bits(ElementFormat element);
inline bool has_scale(ElementFormat e) { return e != ElementFormat::F32 && e != ElementFormat::BF16; }
inline bool is_four_bit(ElementFormat e) {
  return e == ElementFormat::E2M1 || e == ElementFormat::Int4 || e == ElementFormat::E3M0;
}

/// The block of elements that shares one scale, in rows x cols of the row-major tensor [rows, cols]; 0 stands
/// for the whole extent. All published granularities are points of this one type:
///
///   token   {1, 0}    one scale a row: X [T, K] per token, W [N, K] per output channel
///   channel {0, 1}    one scale a column: dY [T, N] per output channel, W [N, K] per input feature
///   tensor  {0, 0}    one scale
///   block   {1, 32}   MXFP4 along a row; {1, 16} NVFP4; {16, 16} NVFP4 weights; {16, 1} along a column
struct Granularity {
  std::int64_t rows = 1;
  std::int64_t cols = 0;

  static constexpr Granularity per_row() { return {1, 0}; }
  static constexpr Granularity per_column() { return {0, 1}; }
  static constexpr Granularity per_tensor() { return {0, 0}; }
  static constexpr Granularity block(std::int64_t r, std::int64_t c) { return {r, c}; }
  bool is_vector_or_tensor() const {
    return (rows == 0 || rows == 1) && (cols == 0 || cols == 1) && !(rows == 1 && cols == 1);
  }
  friend bool operator==(const Granularity&, const Granularity&) = default;
};

/// How a block's scale follows from its values, amax = max |x| of the block. The stored number is the decode scale
/// s; elements are RND(x * (1/s)) and dequantise to q * s. max = element_max.
enum class ScaleRule : std::uint8_t {
  None,          ///< F32 and BF16 elements
  Absmax,        ///< s = amax / max, in F32 (Wang et al. 2025, eq. 1)
  AbsmaxPow2,    ///< s = 2^-floor(log2(max / amax)) (Wang et al., released code; MS-AMP ScalingTensor)
  OcpFloor,      ///< E8M0, s = 2^(floor(log2 amax) - floor(log2 max)), saturating (OCP MX 1.0)
  Ceil6,         ///< E8M0, s = 2^ceil(log2(amax / max)), never clips (TetraJet, Transformer Engine)
  Nearest6,      ///< E8M0, s = 2^round(log2(amax / max)); for ablations
  RangeMatch34,  ///< E8M0 as OcpFloor, times 4/3 kept in tensor_scale: never clips (Amazon; Quartet's backward)
  QuestFloor,    ///< E8M0, s = 2^floor(log2 c), c = (2.92247856 / 6) * std + 1e-8 with the block's population
                 ///< standard deviation: clips by design (Quartet, QuEST; E2M1 only)
  QuestNearest,  ///< as QuestFloor, s = 2^round(log2 c)
  QuestCeil,     ///< as QuestFloor, s = 2^ceil(log2 c)
  QuestExact,    ///< as QuestFloor, s = c, in F32
  Nvfp4,         ///< UE4M3 block scale under an F32 scale of the tensor or of a stretch of a row (NVIDIA; E2M1 only)
  Sawb,          ///< F32, s = (12.68 sqrt(E x^2) - 12.80 E|x|) / 7, clips (SAWB; Int4 only; LUQ's forward); where that
                 ///< is not positive, as for numbers of one magnitude, amax / 7
};

enum class ScaleFormat : std::uint8_t { None, F32, E8M0, UE4M3 };
ScaleFormat scale_format(ScaleRule rule);

/// Four-over-six (Cook et al. 2025): each block takes the scale that maps amax to 6 or 1.5 times that scale, which
/// maps it to 4, whichever has the smaller error; 6 wins ties.
enum class Selection : std::uint8_t { None, Mse, Mae, MaxAbs };

/// The free constants of the Nvfp4 rule. With amax_o the amax under one outer scale:
///
///   s_enc = val_max * scale_max / amax_o          outer decode scale 1 / s_enc
///   s_blk = E4M3(amax * s_enc / val_max)          (round to nearest even; 0 becomes zero_scale)
///   q     = RND(clamp(x / (s_blk / s_enc), -6, 6))
struct Nvfp4Scale {
  double val_max = 6;      ///< 6; 6*16/17 keeps a scale that rounds down from clipping; 6/.988125 for MS-EDEN
  double scale_max = 448;  ///< 448; 256 leaves room for four-over-six's 1.5x; 255.99 for MS-EDEN
  double zero_scale = 0;   ///< 0 (Transformer Engine), 1 (Quartet II) or 2^-9 (TetraJet-v2)
  std::int64_t outer = 0;  ///< columns under one F32 scale: 0 = the tensor, 128 = TetraJet-v2's double block
  Selection selection = Selection::None;

  friend bool operator==(const Nvfp4Scale&, const Nvfp4Scale&) = default;
};

/// Blockwise Hadamard transform of each row: groups of `group` consecutive columns, x' = x diag(signs) H / sqrt(group),
/// H Sylvester's. Signs come FIRST: applied to the inputs. The two operands of a product must use the same transform.
struct Hadamard {
  enum class Signs : std::uint8_t {
    Plus,    ///< none: a fixed Hadamard matrix
    Vector,  ///< NVIDIA's constant vector of 16 (group 16 only)
    Step,    ///< drawn once a step and product of a layer
    Call,    ///< drawn anew for every pass
  };
  std::int64_t group = 0;  ///< 0 = no transform; a power of two from 2 to 256 that divides the contraction
  Signs signs = Signs::Plus;
  /// Signs after the mix, as the first Quartet release had them: no useful randomisation; for reproduction.
  bool signs_last = false;

  bool enabled() const { return group > 0; }
  friend bool operator==(const Hadamard&, const Hadamard&) = default;
};

/// What becomes of the part of x beyond the clamp.
enum class ResidualMode : std::uint8_t {
  None,    ///< dropped (Wang et al., released code)
  Sparse,  ///< kept exactly, as a CSR matrix (OCC, Wang et al. section 3.2)
  Dense,   ///< added back to the dequantised values, which become a BF16 operand (residual_compensation of the release)
  Fused,   ///< kept in the element: entries within the bounds become their E2M1 code as an E4M3 number, which is exact,
           ///< and an entry y beyond them E4M3(y * (1/s)) under the same scale s (nearest even, saturating at 448). So
           ///< one product of 8-bit elements holds what Sparse computes in two, with outliers of 4 significant bits:
           ///< |Q(y) - y| <= max(2^-4 |y|, 2^-10 s) while |y| <= 448 s, and Q(y) = +-448 s beyond. (Below 2^-6 s E4M3
           ///< is subnormal: for bounds of one sign.) For E2M1 under Absmax or AbsmaxPow2, per row or tensor.
};

/// Clamp to quantiles before scaling: with the n values of a row (or of the tensor) sorted ascending,
/// lo = sorted[int((1 - alpha) * n)], hi = sorted[int(alpha * n)] (indices in double, truncated).
struct Clamp {
  double alpha = 0;     ///< 0 = no clamp; Wang et al. use 0.99
  bool per_row = true;  ///< quantiles of each row, else of the whole tensor
  ResidualMode residual = ResidualMode::None;

  bool enabled() const { return alpha > 0; }
  friend bool operator==(const Clamp&, const Clamp&) = default;
};

struct QuantSpec {
  ElementFormat element = ElementFormat::BF16;
  Granularity granularity = Granularity::per_row();
  ScaleRule scale = ScaleRule::None;
  Nvfp4Scale nvfp4{};
  Rounding rounding = Rounding::NearestEven;
  /// Columns that share one correction of Rounding::Eden; a multiple of 16.
  std::int64_t eden_group = 16;
  /// E3M0: the smallest magnitude is amax / 2^log_steps, 1 to 6 (LUQ prints 4, its code space allows 6).
  int log_steps = 6;
  /// Transpose x first: rows of the QTensor are columns of x. So blocks, transform and clamp, which run along rows of
  /// the QTensor, run along the columns of x, the contraction of wgrad (and of dgrad for W).
  bool transposed = false;
  Hadamard hadamard{};
  Clamp clamp{};
  /// Keep one bit an element: |x / s| < 6, the trust mask of QuEST.
  bool trust_mask = false;
  /// Round x to BF16 before anything else (released-code arithmetic; a no-op on BF16 tensors).
  bool bf16_input = false;
  /// After quantising, re-express the dequantised values in this format with one AbsmaxPow2 tensor scale, as
  /// engines do that simulate FP4 on FP8 tensor cores. BF16 here means: no such cast.
  ElementFormat carrier = ElementFormat::BF16;

  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

}  // namespace nibble
