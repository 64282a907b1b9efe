// How the products of a linear layer run on a device, and what quantising an operand costs in operations.
#pragma once

#include <string>

#include "nibble/cost/device.h"
#include "nibble/model/config.h"
#include "nibble/recipe/recipe.h"

namespace nibble {

enum class Product : std::uint8_t { Fprop, Dgrad, Wgrad };
inline constexpr std::array kAllProducts = {Product::Fprop, Product::Dgrad, Product::Wgrad};
const char* product_name(Product product);
/// Left and right operand.
std::array<Operand, 2> operands_of(Product product);

/// What an operand's codes look like along the contraction of its product.
struct OperandForm {
  ElementFormat element = ElementFormat::BF16;  ///< as multiplied: the carrier's or that with the residual in it
  /// Elements along the contraction that share a scale: 0 = all (the scale leaves the contraction), 1 = none.
  std::int64_t block = 0;
  ScaleFormat scale = ScaleFormat::None;
  std::int64_t outer = 0;  ///< elements under one F32 scale above the block's; 0 = the tensor
};
OperandForm operand_form(const LinearRecipe& recipe, Operand operand);
/// The spec that decides what the operand holds: fprop's where fprop's quantised operand serves again.
const QuantSpec& effective_spec(const LinearRecipe& recipe, Operand operand);

/// On what a product runs, and why.
struct ProductPath {
  Unit unit = Unit::Bf16;
  double share = 1;  ///< of the unit's rate: block-scaled integer products pay for their partial sums
  std::string why;   ///< "E2M1 is exact in E4M3; scales in the epilogue"
  /// Both operands are rewritten before: block-scaled codes as E4M3 under one power of two a row (ops/gemm.h).
  bool rewrites = false;
};

/// The fastest unit that computes the product of the two operands' values exactly (up to the sum's order), or BF16
/// where none does:
///
/// - FP4 tensor cores take two operands of E2M1 with E8M0 scales over 32, or UE4M3 scales over 16 (a 16x16 block is
/// one), or
///   scales that leave the contraction, or F32 scales over at least 128 (partial sums are promoted);
/// - FP8 tensor cores take E4M3, E5M2 and every four-bit code, with scales outside the contraction or F32 over at least
/// 128;
///   MXFP4 as well (a code times 2^e is exact in E4M3 for 15 neighbouring exponents: with a range check; where there
///   are FP4 units, natively); MXFP8 where there are FP4 units. NVFP4 values need up to six significant bits: BF16;
/// - a scale for every element of the contraction (not folded into the partner) means decoding: BF16.
/// - CPUs multiply four-bit codes as int8.
ProductPath product_path(const LinearRecipe& recipe, Product product, const DeviceSpec& device);

/// The product's element width as the theoretical model has it: the wider of the two operands, carriers ignored,
/// residuals that are in the elements not; 4, 8, 16 or 32 bits.
int product_bits(const LinearRecipe& recipe, Product product);

/// Elementwise operations an element for quantising by `spec`, 0 for unquantised formats: amax 2 (magnitude, maximum),
/// scaling 1, rounding 2 (nearest) or 6 (stochastic: a quarter of a Philox block, and a comparison), Hadamard
/// log2(group) + 1, clamp 4, four-over-six 8 (the second candidate and both errors), EDEN 4, carrier 3.
double quantise_ops(const QuantSpec& spec);

/// Share of X that the sparse residual of fprop.x holds: 2 (1 - alpha), 0 without one.
double residual_density(const LinearRecipe& recipe);
/// Columns that run in a format of their own (OutControl).
double outlier_columns(const LinearRecipe& recipe, std::int64_t inputs);

/// Stages of a recipe that hold for part of a run.
struct StageShare {
  std::size_t stage = 0;
  double share = 0;  ///< of the steps
};
/// A stage that waits for a monitored figure is taken to begin at `monitored_from` of the run, or at its `from` if that
/// is later. Shares add up to 1; stages without a share are left out.
std::vector<StageShare> stage_shares(const Recipe& recipe, double monitored_from);

/// FP8 as a yardstick: E4M3 in fprop, dY in E5M2, one current scale a tensor, W and X quantised once.
Recipe reference_fp8();

}  // namespace nibble
