#include "nibble/recipe/linear.h"

#include "nibble/ops/reduce.h"
#include "nibble/ops/spmm.h"
#include "nibble/quant/dge.h"

namespace nibble {

Linear::Linear(std::string name, std::uint32_t id, const Recipe& recipe)
    : name_(std::move(name)), id_(id), recipe_(recipe) {}

QuantizeContext Linear::context_for(Operand operand, std::uint64_t seed, std::uint32_t step) const {
  QuantizeContext context;
  context.random = {seed, step,
                    id_ * static_cast<std::uint32_t>(kAllOperands.size()) + static_cast<std::uint32_t>(operand)};
  return context;
}

QTensor Linear::quantise(Operand operand, const Tensor& x, const QuantizeContext& context, Arena& arena, bool measure,
                         StepProfile* profile) {
  const QuantSpec& spec = recipe_[operand].quant;
  const bool as_it_is = (spec.element == ElementFormat::BF16 && x.dtype() == DType::BF16) ||
                        (spec.element == ElementFormat::F32 && x.dtype() == DType::F32);
  QTensor q = as_it_is ? QTensor::view(x) : timed(profile, "quantise", quantize, x, spec, context, arena);
  if (measure) {
    const ArenaScope scope(arena);
    quality_[static_cast<std::size_t>(operand)].merge(nibble::measure_quality(x, q, spec, context, arena));
  }
  return q;
}

void Linear::prepare(const Tensor& w, std::uint64_t seed, std::uint32_t step, Arena& weight_arena, bool measure) {
  weight_ = w;
  fprop_w_ = quantise(Operand::FpropW, w, context_for(Operand::FpropW, seed, step), weight_arena, measure, nullptr);
  if (!recipe_[Operand::DgradW].from_fprop) {
    dgrad_w_ = quantise(Operand::DgradW, w, context_for(Operand::DgradW, seed, step), weight_arena, measure, nullptr);
  }
  if (recipe_[Operand::FpropX].quant.clamp.residual == ResidualMode::Sparse) {
    weight_transposed_ = weight_arena.allocate(DType::BF16, {w.cols(), w.rows()});
    transpose(w, weight_transposed_);
  }
}

LinearQuality Linear::quality() const {
  LinearQuality all = quality_;
  for (const auto& [reused, original] :
       {std::pair{Operand::DgradW, Operand::FpropW}, std::pair{Operand::WgradX, Operand::FpropX}}) {
    if (recipe_[reused].from_fprop)
      all[static_cast<std::size_t>(reused)] = quality_[static_cast<std::size_t>(original)];
  }
  return all;
}

// Y = Q(X) Q(W)^T, plus the residual of outlier clamping times W.
Linear::Saved Linear::forward(const Tensor& x, const Tensor& y, Accumulate accumulate, const PassContext& pass) {
  QuantizeContext context = context_for(Operand::FpropX, pass.seed, pass.step);
  context.element_offset = static_cast<std::uint64_t>(pass.first_token * x.cols());
  Saved saved{quantise(Operand::FpropX, x, context, pass.arena, pass.measure_quality, pass.profile), x};
  paths_[0] = gemm_path({saved.x}, {fprop_w_});
  timed(pass.profile, "gemm fprop", gemm, GemmOperand{saved.x}, GemmOperand{fprop_w_}, y, accumulate, pass.arena);
  if (saved.x.residual.defined()) {
    timed(pass.profile, "residual fprop", spmm_fprop, saved.x.residual, weight_transposed_, y);
  }
  return saved;
}

void Linear::backward(const Tensor& dy, const Saved& saved, const Tensor& dx, const Tensor& dw,
                      const PassContext& pass) {
  const ArenaScope scope(pass.arena);
  // One quantised dY serves both products when nothing in their specs tells them apart.
  const OperandSpec& in_dgrad = recipe_[Operand::DgradDy];
  const OperandSpec& in_wgrad = recipe_[Operand::WgradDy];
  const bool shared = in_dgrad.quant == in_wgrad.quant && !in_dgrad.fold_partner_scales &&
                      !in_wgrad.fold_partner_scales && !is_stochastic(in_dgrad.quant.rounding);
  QTensor q;
  dgrad(dy, dx, pass, &q);
  if (shared && pass.measure_quality) {
    quality_[static_cast<std::size_t>(Operand::WgradDy)] = quality_[static_cast<std::size_t>(Operand::DgradDy)];
  }
  wgrad(dy, shared ? &q : nullptr, saved, dw, pass);
}

// dX = Q(dY) Q(W), contraction over N. Where the scales of W (one per output channel) were folded into dY, only the
// codes of W are multiplied.
void Linear::dgrad(const Tensor& dy, const Tensor& dx, const PassContext& pass, QTensor* dy_out) {
  const QTensor& w = recipe_[Operand::DgradW].from_fprop ? fprop_w_ : dgrad_w_;
  const bool fold = recipe_[Operand::DgradDy].fold_partner_scales;
  QuantizeContext context = context_for(Operand::DgradDy, pass.seed, pass.step);
  context.element_offset = static_cast<std::uint64_t>(pass.first_token * dy.cols());
  if (fold) context.col_fold = w.scales.reshape({w.rows});
  *dy_out = quantise(Operand::DgradDy, dy, context, pass.arena, pass.measure_quality, pass.profile);
  const GemmOperand left{*dy_out};
  const GemmOperand right{w, /*transposed=*/true, /*scales_folded=*/fold};
  paths_[1] = gemm_path(left, right);
  timed(pass.profile, "gemm dgrad", gemm, left, right, dx, Accumulate::Overwrite, pass.arena);
}

// dW = (Q(dY)^T Q(X)) * DGE'(W) + dY^T residual, contraction over T.
void Linear::wgrad(const Tensor& dy, const QTensor* shared_dy, const Saved& saved, const Tensor& dw,
                   const PassContext& pass) {
  QTensor own_x;
  if (!recipe_[Operand::WgradX].from_fprop) {
    QuantizeContext context = context_for(Operand::WgradX, pass.seed, pass.step);
    context.element_offset = static_cast<std::uint64_t>(pass.first_token * saved.source.cols());
    own_x = quantise(Operand::WgradX, saved.source, context, pass.arena, pass.measure_quality, pass.profile);
  }
  const QTensor& x = recipe_[Operand::WgradX].from_fprop ? saved.x : own_x;
  const bool fold = recipe_[Operand::WgradDy].fold_partner_scales;
  QTensor own_dy;
  if (shared_dy == nullptr) {
    QuantizeContext context = context_for(Operand::WgradDy, pass.seed, pass.step);
    context.element_offset = static_cast<std::uint64_t>(pass.first_token * dy.cols());
    if (fold) context.row_fold = x.scales.reshape({x.rows});
    own_dy = quantise(Operand::WgradDy, dy, context, pass.arena, pass.measure_quality, pass.profile);
  }
  const GemmOperand left{shared_dy != nullptr ? *shared_dy : own_dy, /*transposed=*/true};
  const GemmOperand right{x, /*transposed=*/true, /*scales_folded=*/fold};
  paths_[2] = gemm_path(left, right);

  // The estimator multiplies this micro-batch's product alone, not what earlier ones accumulated.
  const bool dge = recipe_.weight_gradient.estimator == WeightGradient::Estimator::Dge;
  const bool apart = dge && !pass.first_micro_batch;
  const Tensor product = apart ? pass.arena.allocate(DType::F32, {dw.rows(), dw.cols()}) : dw;
  timed(pass.profile, "gemm wgrad", gemm, left, right, product,
        apart || pass.first_micro_batch ? Accumulate::Overwrite : Accumulate::Add, pass.arena);
  if (dge) {
    timed(pass.profile, "dge", dge_apply, product, weight_, fprop_w_, recipe_[Operand::FpropW].quant,
          recipe_.weight_gradient.k, recipe_.weight_gradient.clip);
    if (apart) add_in_place(dw, product);
  }
  if (saved.x.residual.defined() && recipe_.residual_in_wgrad) {
    timed(pass.profile, "residual wgrad", spmm_wgrad, saved.x.residual, dy, dw, pass.arena);
  }
}

}  // namespace nibble
