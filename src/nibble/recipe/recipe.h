// A recipe says how the linear layers of a model run their three matrix products, from the first step of a run to the
// last. It is data: a file under recipes/ read into this struct. How to write one: docs/recipes.md.
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
#include <optional>
#include <string>
#include <vector>

#include "nibble/quant/quant_spec.h"

namespace nibble {

enum class Operand : std::uint8_t { FpropX, FpropW, DgradDy, DgradW, WgradDy, WgradX };
inline constexpr std::array kAllOperands = {Operand::FpropX, Operand::FpropW,  Operand::DgradDy,
                                            Operand::DgradW, Operand::WgradDy, Operand::WgradX};
const char* operand_name(Operand operand);  ///< "fprop.x", ...

/// What an operand is quantised from.
enum class OperandSource : std::uint8_t {
  HighPrecision,  ///< the tensor itself
  Fprop,          ///< dgrad.w and wgrad.x: no quantisation, the operand that fprop quantised serves again
  Requantise,     ///< dgrad.w and wgrad.x: the values of fprop's quantised operand, quantised anew by `quant`
};

struct OperandSpec {
  QuantSpec quant;
  OperandSource source = OperandSource::HighPrecision;
  /// dgrad.dy and wgrad.dy only: multiply the partner's scales, which lie along the contraction, into dY before it
  /// is quantised, so that the product runs on the partner's codes.
  bool fold_partner_scales = false;
  /// wgrad.dy only: average the product over this many independent quantisations of dY (LUQ's SMP).
  int samples = 1;

  friend bool operator==(const OperandSpec&, const OperandSpec&) = default;
};

/// What multiplies the weight gradient on its way through the rounding of W.
struct WeightGradient {
  enum class Estimator : std::uint8_t { StraightThrough, Dge };
  Estimator estimator = Estimator::StraightThrough;
  float k = 5;     ///< DGE sharpness
  float clip = 3;  ///< DGE bound
};

/// Channels (columns) of X with the largest norms run through products of their own, in a wider format: OutControl of
/// TetraJet-v2. In fprop and wgrad the other channels are quantised as the operands say, with these set to zero; these
/// are quantised by `quant`, X and dY along the contraction as W is. dgrad has no part in it.
struct OutlierChannels {
  double share = 0;               ///< of the channels, 0 = none; TetraJet-v2: 0.1
  std::int64_t multiple = 128;    ///< their number is rounded up to this
  std::int64_t first_step = 501;  ///< squared norms are summed over these steps; from the next step on the choice holds
  std::int64_t last_step = 550;
  QuantSpec quant;

  bool enabled() const { return share > 0; }
};

/// Exponential moving average of W, towards which Rounding::Reference rounds fprop.w: Q-EMA of TetraJet.
struct WeightAverage {
  double decay = 0;              ///< 0 = none; TetraJet: 0.9972
  std::int64_t start_step = 10;  ///< until then the average is W itself
  bool enabled() const { return decay > 0; }
};

/// Weights that flip between two grid points are set to their quantised value: OsciReset of TetraJet-v2.
struct OscillationReset {
  enum class Criterion : std::uint8_t {
    Ratio,  ///< sum |delta Q(w)| / sum |delta w| over the window >= threshold
    Edge,   ///< |w / s - q| > threshold * width of q's bin
  };
  Criterion criterion = Criterion::Ratio;
  double threshold = 0;          ///< 0 = none; 8 (paper) for Ratio, 0.495 for Edge
  double start_fraction = 0.65;  ///< of the run's steps
  std::int64_t period = 200;     ///< a window begins every `period` steps
  std::int64_t window = 50;      ///< steps over which a window watches; the reset follows its last step
  bool enabled() const { return threshold > 0; }
};

/// How one linear layer runs during one stage of a run.
struct LinearRecipe {
  std::array<OperandSpec, 6> operands;
  WeightGradient weight_gradient;
  /// Whether wgrad includes the sparse residual of fprop.x: the exact gradient of the forward product.
  bool residual_in_wgrad = true;
  OutlierChannels outlier_channels;
  WeightAverage weight_average;
  OscillationReset oscillation_reset;

  const OperandSpec& operator[](Operand o) const { return operands[static_cast<std::size_t>(o)]; }
  OperandSpec& operator[](Operand o) { return operands[static_cast<std::size_t>(o)]; }
};

/// A part of a run. The first stage begins with the run; a later one when its condition holds, and none is left again.
struct Stage {
  /// Of the run's steps: the stage begins before step floor(from * steps) + 1 (with `monitor`: at the earliest).
  double from = 0;
  /// Begins when the monitored figure has been below `below` in `patience` measurements in a row.
  enum class Monitor : std::uint8_t {
    None,
    GradientToNoise,  ///< rho = |dW| / |Q(dW) - dW| over all quantised layers ("FP4 All the Way", section 4: sqrt(3))
  };
  Monitor monitor = Monitor::None;
  double below = 0;
  std::int64_t patience = 1;
  /// The learning rate climbs from 0 over this many steps and then decays anew, as the schedule does after warm-up,
  /// over what is left of the run (the QAF tail of "FP4 All the Way": 40). 0 = the schedule goes on undisturbed.
  std::int64_t rewarm_steps = 0;
  /// One for each entry of Recipe::modules, the default for all other layers last.
  std::vector<LinearRecipe> linear;
};

struct Recipe {
  std::string name;
  std::string title;
  std::string source;  ///< paper or code it comes from
  /// The recipe as one self-contained TOML text, `extends` resolved: kept with every run.
  std::string text;
  /// Shell patterns on layer names ("layers.*.attention.*"), one list a module rule; the first that matches counts.
  std::vector<std::vector<std::string>> modules;
  std::vector<Stage> stages;  ///< at least one
  /// Linear layers that stay in the model's high precision: shell patterns on the layer name
  /// ("layers.*.mlp.down"), and whole blocks counted from either end; of the blocks at either end a share, rounded.
  std::vector<std::string> exempt;
  std::int64_t exempt_first_blocks = 0;
  std::int64_t exempt_last_blocks = 0;
  double exempt_last_share = 0;
  LinearRecipe high_precision;  ///< what exempt layers run
  /// The recipe claims that its backward is an unbiased estimate of the gradient of its forward; parsing refuses
  /// operands that break the claim.
  bool unbiased_gradient = false;

  /// What layers without a module rule run in the first stage.
  const LinearRecipe& base() const { return stages.front().linear.back(); }
  /// Whether the linear layer `name` of block `block` (of `blocks`) is exempt.
  bool is_exempt(const std::string& name, std::int64_t block, std::int64_t blocks) const;
  /// How the layer runs in stage `stage`.
  const LinearRecipe& resolve(const std::string& name, std::int64_t block, std::int64_t blocks,
                              std::size_t stage) const;
  bool has_monitor() const;
};

/// Reads and validates a recipe file. A wrong key, value or combination throws UserError with file, line and what
/// is allowed.
Recipe load_recipe(const std::filesystem::path& path);
Recipe parse_recipe(const std::string& text, const std::string& origin);
/// Every operand in one unquantised format: what exempt layers use (BF16), and the reference for gradient checks (F32).
Recipe unquantised_recipe(ElementFormat element);

/// A recipe by name ("wang2025": NAME.toml in the recipe folder or one of its sub-folders) or by path (anything with a
/// slash or ".toml"). The folder is $NIBBLE_RECIPES, else recipes/ beside the current folder or the installed data
/// folder.
std::filesystem::path find_recipe(const std::string& name_or_path);
/// Names of all recipes that find_recipe knows, sorted.
std::vector<std::string> known_recipes();

/// One line a person reads: "E2M1 per row, absmax, nearest-up, clamp 0.99 + sparse residual".
std::string describe(const OperandSpec& spec);
/// Bits a value of the operand takes when stored, scales included (MXFP4 4.25, NVFP4 4.5), for rows of `columns`.
double stored_bits(const QuantSpec& spec, std::int64_t columns);

}  // namespace nibble
