// A recipe says how a linear layer runs its three matrix products. It is data: a file under recipes/ read into
// this struct. How to write one: docs/recipes.md.
//
// Y = X W^T with X [T, K], W [N, K]; operand names as in the literature on FP4 training:
//
//   product   contraction   left operand     right operand
//   fprop     K             fprop.x  (X)     fprop.w  (W)
//   dgrad     N             dgrad.dy (dY)    dgrad.w  (W)
//   wgrad     T             wgrad.dy (dY)    wgrad.x  (X)
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/quant/quant_spec.h"

namespace nibble {

enum class Operand : std::uint8_t { FpropX, FpropW, DgradDy, DgradW, WgradDy, WgradX };
inline constexpr std::array kAllOperands = {Operand::FpropX, Operand::FpropW,  Operand::DgradDy,
                                            Operand::DgradW, Operand::WgradDy, Operand::WgradX};
const char* operand_name(Operand operand);  ///< "fprop.x", ...

struct OperandSpec {
  QuantSpec quant;
  /// dgrad.w and wgrad.x only: use the operand that fprop quantised, instead of quantising the source again.
  bool from_fprop = false;
  /// dgrad.dy and wgrad.dy only: multiply the partner's scales, which lie along the contraction, into dY before it
  /// is quantised, so that the product runs on the partner's codes.
  bool fold_partner_scales = false;
};

/// What multiplies the weight gradient on its way through the rounding of W.
struct WeightGradient {
  enum class Estimator : std::uint8_t { StraightThrough, Dge };
  Estimator estimator = Estimator::StraightThrough;
  float k = 5;     ///< DGE sharpness
  float clip = 3;  ///< DGE bound
};

struct Recipe {
  std::string name;
  std::string title;
  std::string source;  ///< paper or code it comes from
  std::string text;    ///< the file as read, kept with every run
  std::array<OperandSpec, 6> operands;
  WeightGradient weight_gradient;
  /// Whether wgrad includes the sparse residual of fprop.x: the exact gradient of the forward product.
  bool residual_in_wgrad = true;
  /// Linear layers that stay in the model's high precision: shell patterns on the layer name
  /// ("layers.*.mlp.down"), and whole blocks counted from either end.
  std::vector<std::string> exempt;
  std::int64_t exempt_first_blocks = 0;
  std::int64_t exempt_last_blocks = 0;

  const OperandSpec& operator[](Operand o) const { return operands[static_cast<std::size_t>(o)]; }
  OperandSpec& operator[](Operand o) { return operands[static_cast<std::size_t>(o)]; }
  /// Whether the linear layer `name` of block `block` (of `blocks`) is exempt.
  bool is_exempt(const std::string& name, std::int64_t block, std::int64_t blocks) const;
};

/// Reads and validates a recipe file. A wrong key, value or combination throws UserError with file, line and what
/// is allowed.
Recipe load_recipe(const std::filesystem::path& path);
Recipe parse_recipe(const std::string& text, const std::string& origin);
/// Every operand in one unquantised format: what exempt layers use (BF16), and the reference for gradient checks (F32).
Recipe unquantised_recipe(ElementFormat element);

/// A recipe by name ("wang2025": NAME.toml in the recipe folder) or by path (anything with a slash or ".toml"). The
/// folder is $NIBBLE_RECIPES, else recipes/ beside the current folder or the installed data folder.
std::filesystem::path find_recipe(const std::string& name_or_path);

/// One line a person reads: "E2M1 per row, absmax, nearest-up, clamp 0.99 + sparse residual".
std::string describe(const OperandSpec& spec);

}  // namespace nibble
