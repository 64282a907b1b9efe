// QuantSpec: everything a recipe can say about one operand of one product. It is plain data; `quantize`
// (quantize.h) carries it out, and recipe files (recipe/recipe.h) spell it in TOML.
#pragma once

#include <cstdint>

#include "nibble/numerics/rounding.h"

namespace nibble {

/// Format of the stored elements.
enum class ElementFormat : std::uint8_t { F32, BF16, E2M1, E4M3, E5M2 };

/// Largest finite magnitude of an element format that takes a scale (6, 448, 57344); 0 for F32 and BF16.
float element_max(ElementFormat element);
/// Bits a stored element takes: 32, 16, 4, 8, 8.
int element_bits(ElementFormat element);
inline bool has_scale(ElementFormat e) { return e != ElementFormat::F32 && e != ElementFormat::BF16; }

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

/// How a block's scale follows from amax = max |x| of the block. The stored number is the decode scale s;
/// elements are RND(x * (1/s)) and dequantise to q * s.
enum class ScaleRule : std::uint8_t {
  None,        ///< F32 and BF16 elements
  Absmax,      ///< s = amax / element_max, in F32 (Wang et al. 2025, eq. 1)
  AbsmaxPow2,  ///< s = 2^-floor(log2(element_max / amax)) (Wang et al., released code; MS-AMP ScalingTensor)
  OcpFloor,    ///< E8M0, s = 2^(floor(log2 amax) - 2), saturating (OCP MX 1.0; E2M1 only)
  Ceil6,       ///< E8M0, s = 2^ceil(log2(amax / 6)), never clips (TetraJet, Transformer Engine; E2M1 only)
  Nvfp4,       ///< UE4M3 block scale under one F32 tensor scale (NVIDIA; E2M1 only)
};

enum class ScaleFormat : std::uint8_t { None, F32, E8M0, UE4M3 };
ScaleFormat scale_format(ScaleRule rule);

/// What becomes of the part of x beyond the clamp.
enum class ResidualMode : std::uint8_t {
  None,    ///< dropped (Wang et al., released code)
  Sparse,  ///< kept exactly, as a CSR matrix (OCC, Wang et al. section 3.2)
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
  Rounding rounding = Rounding::NearestEven;
  Clamp clamp;
  /// Round x to BF16 before anything else (released-code arithmetic; a no-op on BF16 tensors).
  bool bf16_input = false;
  /// After quantising, re-express the dequantised values in this format with one AbsmaxPow2 tensor scale, as
  /// engines do that simulate FP4 on FP8 tensor cores. BF16 here means: no such cast.
  ElementFormat carrier = ElementFormat::BF16;

  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

}  // namespace nibble
