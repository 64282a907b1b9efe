#include "nibble/recipe/linear_contract.h"

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

/// The transform that an operand of a backward product adds to what it is quantised from.
Hadamard own_transform(const OperandSpec& spec) {
  return spec.source == OperandSource::Fprop ? Hadamard{} : spec.quant.hadamard;
}

}  // namespace

void require_runnable(const LinearRecipe& recipe, const std::string& layer) {
  const auto demand = [&](bool condition, const char* what) { require(condition, "{}: {}", layer, what); };
  const OperandSpec& x = recipe[Operand::FpropX];
  const OperandSpec& w = recipe[Operand::FpropW];
  const OperandSpec& dgrad_dy = recipe[Operand::DgradDy];
  const OperandSpec& dgrad_w = recipe[Operand::DgradW];
  const OperandSpec& wgrad_dy = recipe[Operand::WgradDy];
  const OperandSpec& wgrad_x = recipe[Operand::WgradX];
  const bool rotated = x.quant.hadamard.enabled();

  demand(!x.quant.transposed && !w.quant.transposed && !dgrad_dy.quant.transposed,
         "fprop.x, fprop.w and dgrad.dy lie along their contraction already and can't be transposed");
  for (const Operand o : {Operand::FpropX, Operand::FpropW, Operand::DgradDy, Operand::WgradDy}) {
    demand(recipe[o].source == OperandSource::HighPrecision, "only dgrad.w and wgrad.x can come from fprop");
  }

  demand(x.quant.hadamard == w.quant.hadamard, "fprop.x and fprop.w must share one transform");
  demand(!rotated || x.quant.hadamard.signs != Hadamard::Signs::Call,
         "the weight is quantised once a step, so the signs of fprop can't change with every pass");
  demand(own_transform(dgrad_dy) == own_transform(dgrad_w), "dgrad.dy and dgrad.w must share one transform");
  demand(own_transform(wgrad_dy) == own_transform(wgrad_x), "wgrad.dy and wgrad.x must share one transform");
  demand(!own_transform(dgrad_w).enabled() || dgrad_w.quant.transposed,
         "the transform of dgrad.w runs along the output features: it must be transposed");
  demand(!own_transform(wgrad_x).enabled() || (wgrad_dy.quant.transposed && wgrad_x.quant.transposed),
         "the transforms of wgrad run along the tokens: its operands must be transposed");

  demand(!rotated || x.quant.clamp.residual != ResidualMode::Sparse,
         "the sparse residual of a rotated fprop.x is not a residual of X");
  for (const auto& [dy, partner] : {std::pair{dgrad_dy, dgrad_w}, std::pair{wgrad_dy, wgrad_x}}) {
    demand(!dy.fold_partner_scales || (!dy.quant.transposed && !dy.quant.hadamard.enabled()),
           "scales can't be folded into a dY that is transposed or rotated");
    demand(!dy.fold_partner_scales || partner.source == OperandSource::Fprop || !partner.quant.transposed,
           "the scales of a transposed operand don't lie along the contraction");
  }
  for (const Operand o : kAllOperands) {
    demand(recipe[o].samples == 1 || (o == Operand::WgradDy && recipe[o].samples > 1 && recipe[o].samples <= 256 &&
                                      is_stochastic(recipe[o].quant.rounding)),
           "only a stochastic wgrad.dy can be sampled more than once");
    demand(recipe[o].quant.rounding != Rounding::Reference || (o == Operand::FpropW && recipe.weight_average.enabled()),
           "only fprop.w rounds towards a reference, which is the weight's moving average");
  }
  demand(recipe.weight_gradient.estimator != WeightGradient::Estimator::Dge || w.quant.element == ElementFormat::E2M1,
         "dge is the derivative of E2M1 rounding");
  demand(!recipe.outlier_channels.enabled() || (!rotated && !dgrad_dy.fold_partner_scales),
         "outlier channels can't go with a rotated fprop or with scales folded into dgrad.dy");
  demand(!recipe.oscillation_reset.enabled() || has_scale(w.quant.element),
         "weights that are not quantised don't oscillate");
  demand(!recipe.oscillation_reset.enabled() || !rotated || w.quant.hadamard.signs != Hadamard::Signs::Step,
         "signs that change with every step leave no weight to watch oscillating");
  demand(!recipe.oscillation_reset.enabled() ||
             recipe.oscillation_reset.criterion == OscillationReset::Criterion::Ratio ||
             (w.quant.element == ElementFormat::E2M1 && w.quant.carrier == ElementFormat::BF16 &&
              w.quant.clamp.residual != ResidualMode::Fused),
         "the bins of the edge criterion are those of E2M1, without a carrier or a fused residual");
}

bool wgrad_reads_input(const LinearRecipe& recipe) {
  return recipe[Operand::WgradX].source == OperandSource::HighPrecision ||
         !has_scale(recipe[Operand::FpropX].quant.element);
}

bool rotates_dx_back(const LinearRecipe& recipe) {
  return recipe[Operand::FpropW].quant.hadamard.enabled() &&
         (recipe[Operand::DgradW].source != OperandSource::HighPrecision || recipe[Operand::FpropX].quant.trust_mask);
}

bool rotates_dw_back(const LinearRecipe& recipe) {
  return recipe[Operand::FpropW].quant.hadamard.enabled() &&
         (recipe[Operand::WgradX].source != OperandSource::HighPrecision || recipe[Operand::FpropW].quant.trust_mask ||
          recipe.weight_gradient.estimator == WeightGradient::Estimator::Dge);
}

bool shares_gradient(const LinearRecipe& recipe) {
  const OperandSpec& in_dgrad = recipe[Operand::DgradDy];
  const OperandSpec& in_wgrad = recipe[Operand::WgradDy];
  return in_dgrad.quant == in_wgrad.quant && !in_dgrad.fold_partner_scales && !in_wgrad.fold_partner_scales &&
         !is_stochastic(in_dgrad.quant.rounding) && !in_dgrad.quant.hadamard.enabled();
}

bool pairs_gradients(const LinearRecipe& recipe) {
  const OperandSpec& in_wgrad = recipe[Operand::WgradDy];
  const bool has_folds = !in_wgrad.fold_partner_scales || recipe[Operand::WgradX].source == OperandSource::Fprop;
  return !shares_gradient(recipe) && in_wgrad.samples == 1 && has_folds;
}

}  // namespace nibble
