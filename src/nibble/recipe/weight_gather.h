// What ranks move where each has some rows of a linear layer's weight W [N, K] (ZeRO-3) and all of them run its
// products. Every rank gets what Linear::prepare of the whole W leaves, to the bit, in the fewest bytes:
//
//   Q(rows of W) are the rows of Q(W)        each rank quantises its rows; codes, scales and masks are gathered
//   ... under a scale that covers all rows   the same, after an all_reduce Max of the magnitudes that the scale follows
//                                            from: one float (a tensor's scale, Nvfp4's second level) or K / block
//   W itself is read, or borders cut blocks  rows of W are gathered, in BF16 where nothing reads more, and each rank
//                                            quantises the whole W
//
// An operand has the first form where its blocks lie along K (fprop.w), or along N in whole blocks a piece: borders are
// multiples of RowPieces::kBorder rows, mostly of 128, and a block, Hadamard group or stretch under one outer scale
// along N has to divide them. Random numbers and signs are keyed by the element's place in the whole W.
//
//   what reads W itself                                                   gathered
//   DGE's estimator, in the backward                                      F32; BF16 with bf16_input, unrotated
//   dgrad.w from W under signs drawn for every pass, in the backward      F32; BF16 with bf16_input
//   a clamp with a residual or of the tensor, a carrier, moments (QuEST,  the same
//     SAWB) of blocks that borders cut, an operand in F32
//   measured steps and observers                                          F32
//   fprop.x's sparse residual, in the forward                             BF16 beside the codes, unless fprop.w is BF16
//   codes that take more bytes than W                                     F32, or BF16 where nothing reads more
//
// dgrad.w that is fprop's, or fprop's quantised anew, needs nothing of its own. A layer that is gathered twice in a
// step needs dgrad.w in the backward alone, and there fprop.w only where dgrad, a trust mask or DGE reads it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "nibble/dist/row_pieces.h"
#include "nibble/recipe/recipe.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// This rank's rows of a weight.
struct WeightRows {
  Tensor values;  ///< F32 [pieces.of(rank).size(), K]; may have no rows
  RowPieces pieces;
  int rank = 0;

  std::int64_t cols() const { return values.cols(); }
  RowRange range() const { return pieces.of(rank); }
};

/// The products that follow. With recomputed activations a backward is both.
enum class WeightUse : std::uint8_t { Both, Forward, Backward };

/// What the products of a use read.
struct WeightNeeds {
  bool fprop = true;
  bool dgrad = false;        ///< dgrad.w quantised from W itself, once a step
  bool requantised = false;  ///< dgrad.w quantised from fprop.w, likewise
  bool outliers = false;     ///< W's outlier channels
  bool residual = false;     ///< W in BF16, for the product of fprop.x's sparse residual
};
WeightNeeds weight_needs(const LinearRecipe& recipe, WeightUse use, std::int64_t outlier_channels);

/// What is gathered for one layer and stage.
struct WeightGather {
  /// Which operands travel as codes; BF16 elements count.
  bool fprop = false;
  bool dgrad = false;
  bool outliers = false;        ///< W's outlier channels
  bool bf16_rows = false;       ///< rows of W in BF16 for the sparse residual's product
  bool average = false;         ///< the weight average's rows: the whole W is rounded towards it here
  std::optional<DType> weight;  ///< rows of W itself: F32 or BF16

  struct Part {
    /// "fprop.w", "dgrad.w", "outlier channels", "rows for the residual", "weight" or "weight average"
    std::string what;
    std::string form;        ///< "e2m1 codes", "bf16", "f32", ...
    std::int64_t bytes = 0;  ///< that a rank receives, padding of the last pieces included
  };
  std::vector<Part> parts;
  std::string reason;           ///< why rows of W travel; empty where none do
  std::int64_t bf16_bytes = 0;  ///< that a rank would receive in rows of W in BF16

  std::int64_t bytes() const;  ///< of all parts
};

/// For a layer that runs `recipe` with W [pieces.rows(), k]. `outlier_channels` are those that were chosen (0 before).
/// `measured`: for a step that measures quality or shows operands to an observer. One rank gathers nothing.
WeightGather weight_gather(const LinearRecipe& recipe, const RowPieces& pieces, std::int64_t k, WeightUse use,
                           std::int64_t outlier_channels = 0, bool measured = false);

/// How many magnitudes the scales of fprop.w, of dgrad.w and of the outlier channels share, once a step: I32 each, of
/// which an all_reduce takes the maximum.
std::array<std::int64_t, 3> weight_magnitudes(const LinearRecipe& recipe, const RowPieces& pieces, std::int64_t k,
                                              std::int64_t outlier_channels);

/// Whether the quantised rows of a matrix with pieces.rows() rows are those of the quantised matrix (or, transposed,
/// its columns), given the magnitudes that scales share.
bool quantises_by_pieces(const QuantSpec& spec, const RowPieces& pieces);

}  // namespace nibble
