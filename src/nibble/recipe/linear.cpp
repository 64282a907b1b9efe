#include "nibble/recipe/linear.h"

#include "nibble/ops/reduce.h"
#include "nibble/ops/spmm.h"
#include "nibble/quant/dge.h"
#include "nibble/quant/hadamard.h"
#include "nibble/recipe/columns.h"
#include "nibble/recipe/linear_contract.h"
#include "nibble/recipe/trust_mask.h"

namespace nibble {

namespace {

/// Whether X itself is what the spec asks for.
bool serves_as_it_is(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context) {
  return ((spec.element == ElementFormat::BF16 && x.dtype() == DType::BF16) ||
          (spec.element == ElementFormat::F32 && x.dtype() == DType::F32)) &&
         !spec.transposed && !spec.hadamard.enabled() && !context.col_fold.defined() && !context.row_fold.defined();
}

}  // namespace

Linear::Linear(std::string name, std::uint32_t id, const Recipe& recipe, std::int64_t block, std::int64_t blocks)
    : name_(std::move(name)),
      id_(id),
      whole_recipe_(recipe),
      block_(block),
      blocks_(blocks),
      recipe_(&recipe.resolve(name_, block, blocks, 0)) {
  for (std::size_t stage = 0; stage < recipe.stages.size(); ++stage) {
    require_runnable(recipe.resolve(name_, block, blocks, stage), name_);
  }
}

QTensor Linear::quantise(Operand operand, const Tensor& x, const QuantizeContext& context, Arena& arena, bool measure,
                         StepProfile* profile) {
  const QuantSpec& spec = (*recipe_)[operand].quant;
  QTensor q = serves_as_it_is(x, spec, context) ? QTensor::view(x)
                                                : timed(profile, "quantise", quantize, x, spec, context, arena);
  if (measure) measure_operand(operand, x, q, context, arena, profile);
  return q;
}

void Linear::measure_operand(Operand operand, const Tensor& x, const QTensor& q, const QuantizeContext& context,
                             Arena& arena, StepProfile* profile) {
  const ArenaScope scope(arena);
  quality_[static_cast<std::size_t>(operand)].merge(
      timed(profile, "measure", nibble::measure_quality, x, q, (*recipe_)[operand].quant, context, arena));
}

void Linear::prepare(const Tensor& w, std::uint64_t seed, std::uint32_t step, Arena& weight_arena, Arena& scratch,
                     bool measure) {
  weight_ = w;
  seed_ = seed;
  step_ = step;
  ensure_state(w);
  prepare_operands(weight_needs(*recipe_, WeightUse::Both, chosen_channels()), nullptr, weight_arena, scratch, measure,
                   false);
}

// From weight_, but for what was gathered.
void Linear::prepare_operands(const WeightNeeds& needs, Gathering* gathered, Arena& weight_arena, Arena& scratch,
                              bool measure, bool again) {
  const auto came = [&](bool WeightGather::*what) { return gathered != nullptr && gathered->plan.*what; };
  if (!again) quality_known_ = {};
  const bool measures_fprop = measure && !quality_known_[0];
  const bool measures_dgrad = measure && !quality_known_[1];
  fprop_w_ = {};
  if (came(&WeightGather::fprop)) {
    fprop_w_ = gathered->fprop.finish(weight_arena);
    if (measures_fprop) {
      const ArenaScope scope(scratch);
      const WeightSource source = weight_source(weight_, step_, scratch, measure, {});
      measure_operand(Operand::FpropW, source.values, fprop_w_, source.context, scratch, nullptr);
    }
  } else if (needs.fprop) {
    Part whole;
    if (came(&WeightGather::average)) whole.average = gathered->average.finish();
    fprop_w_ = quantise_weight(weight_, step_, weight_arena, measures_fprop, whole);
  }
  outlier_w_ = {};
  other_channels_ = {};
  if (needs.outliers) {
    outlier_w_ = came(&WeightGather::outliers) ? gathered->outliers.finish(weight_arena)
                                               : quantise_weight_outliers(weight_, step_, weight_arena);
    other_channels_ = outliers_.others(weight_arena);
  }
  dgrad_w_ = {};
  if (came(&WeightGather::dgrad)) {
    dgrad_w_ = gathered->dgrad.finish(weight_arena);
  } else if (needs.dgrad || needs.requantised) {
    const ArenaScope scope(scratch);
    dgrad_w_ = quantise_dgrad_weight(seed_, 0, weight_arena, scratch, measures_dgrad);
  }
  weight_transposed_ = {};
  if (needs.residual) {
    weight_transposed_ = weight_arena.allocate(DType::BF16, {weight_.cols(), weight_.rows()});
    const bool rounded = weight_.raw() == nullptr;  // then BF16(W) is here, as rows or as what fprop multiplies
    transpose(came(&WeightGather::bf16_rows) ? gathered->bf16_rows.finish()
              : rounded                      ? fprop_w_.codes
                                             : weight_,
              weight_transposed_);
  }
  quality_known_ = {quality_known_[0] || (measure && needs.fprop),
                    quality_known_[1] || (measure && (needs.dgrad || needs.requantised))};
  if (again) return;
  measured_weight_ = {};
  if (gathered != nullptr) return;  // keep_measured_rows
  if (measure && has_scale((*recipe_)[Operand::FpropW].quant.element)) {
    measured_weight_ = weight_arena.allocate(DType::F32, {measured_rows(weight_.rows(), 1), weight_.cols()});
    convert(weight_.row_range(0, measured_weight_.rows()), measured_weight_);
  }
}

void Linear::require_weight(const char* reader) const {
  require(weight_.raw() != nullptr, "{}: {} reads the weight, of which only codes were gathered", name_, reader);
}

QuantizeContext Linear::fprop_context(const Tensor& x, const PassContext& pass) const {
  QuantizeContext context = token_context(Operand::FpropX, x, pass);
  context.col_fold = other_channels_;
  context.for_product = !pass.measure_quality && (*recipe_)[Operand::WgradX].source != OperandSource::Requantise;
  return context;
}

Linear::Saved Linear::forward(const Tensor& x, const Tensor& y, const Tensor& addend, const PassContext& pass) {
  if (pass.observer != nullptr && !pass.again) {
    require_weight("an observer");
    (*pass.observer)(*this, Operand::FpropX, x);
    (*pass.observer)(*this, Operand::FpropW, weight_);
  }
  QuantizeContext context = fprop_context(x, pass);
  const bool measure = pass.measure_quality && !pass.again;
  const Tensor wgrad_amax = find_amaxes(x, context, pass);
  Saved saved{quantise(Operand::FpropX, x, context, pass.arena, measure, pass.profile), x, {}, wgrad_amax};
  if (outlier_w_.codes.defined()) {
    const Tensor channels = pass.arena.allocate(x.dtype(), {x.rows(), outlier_w_.cols});
    gather_columns(x, outliers_.channels(), channels);
    saved.outliers = quantise_outliers(StreamUse::OutlierX, channels, false, Product::Fprop, pass);
  }
  if (y.defined()) fprop(saved, y, addend, pass);
  return saved;
}

bool Linear::backward_reads_input(const PassContext& pass) const {
  return wgrad_reads_input(*recipe_) || pass.measure_quality || recipe_->outlier_channels.enabled();
}

bool Linear::reads_codes_alone(const PassContext& pass) const {
  return !backward_reads_input(pass) && pass.observer == nullptr;
}

Linear::Saved Linear::forward(std::int64_t rows, std::int64_t cols, const QuantizedInput& quantized, const Tensor& y,
                              const Tensor& addend, const PassContext& pass) {
  require(reads_codes_alone(pass), "{}: a pass reads X, of which only codes were made", name_);
  const Tensor shape(nullptr, DType::BF16, {rows, cols}, pass.arena.device());
  const Saved saved{quantized((*recipe_)[Operand::FpropX].quant, fprop_context(shape, pass), pass.arena), {}, {}, {}};
  if (y.defined()) fprop(saved, y, addend, pass);
  return saved;
}

// Y = Q(X) Q(W)^T, plus the residual of outlier clamping times W, plus the product of the outlier channels.
void Linear::fprop(const Saved& saved, const Tensor& y, const Tensor& addend, const PassContext& pass) {
  const ArenaScope scope(pass.arena);
  const bool measured = measures(Product::Fprop, pass);
  Tensor before;
  if (measured && addend.defined()) {
    before = pass.arena.allocate(DType::F32, {measured_rows(y.rows(), kMeasuredTokens), y.cols()});
    convert(addend.row_range(0, before.rows()), before);
  }
  const GemmOperand left{saved.x, saved.x.turned};
  const GemmOperand right{fprop_w_};
  paths_[0] = gemm_path(left, right);
  if (addend.defined()) {
    timed(pass.profile, "gemm fprop", gemm_onto, addend, left, right, y, pass.arena);
  } else {
    timed(pass.profile, "gemm fprop", gemm, left, right, y, Accumulate::Overwrite, pass.arena);
  }
  if (saved.x.residual.defined()) {
    timed(pass.profile, "residual fprop", spmm_fprop, saved.x.residual, weight_transposed_, y, pass.arena);
  }
  if (saved.outliers.codes.defined()) {
    timed(pass.profile, "outliers fprop", gemm, GemmOperand{saved.outliers}, GemmOperand{outlier_w_}, y,
          Accumulate::Add, pass.arena);
  }
  if (measured) measure_fprop(saved.source, y, before, pass);
}

void Linear::backward(const Tensor& dy, const Saved& saved, const Tensor& dx, const Tensor& dw, const PassContext& pass,
                      const PairMagnitudes& known) {
  const ArenaScope scope(pass.arena);
  if (pass.observer != nullptr) (*pass.observer)(*this, Operand::DgradDy, dy);
  QuantizedPair q;
  dgrad(dy, saved, dx, pass, known, &q);
  wgrad(dy, q.second, saved, dw, pass);
  outliers_.observe(saved.source, pass.step);
}

QuantizeContext Linear::dgrad_gradient_context(const Tensor& dy, const QTensor& w, const PassContext& pass) const {
  QuantizeContext context = token_context(Operand::DgradDy, dy, pass);
  if ((*recipe_)[Operand::DgradDy].fold_partner_scales) context.col_fold = w.scales.reshape({w.rows});
  context.for_product = !pass.measure_quality;
  return context;
}

PairMagnitudes Linear::wanted_magnitudes(const Tensor& dy, const Saved& saved, const PassContext& pass,
                                         Arena& arena) const {
  const bool reuses = (*recipe_)[Operand::DgradW].source == OperandSource::Fprop;
  const QTensor& w = reuses ? fprop_w_ : dgrad_w_;
  if (!pairs_gradients(*recipe_) || !w.codes.defined() || !saved.x.codes.defined()) return {};
  return pair_magnitudes(dy, (*recipe_)[Operand::DgradDy].quant, dgrad_gradient_context(dy, w, pass),
                         (*recipe_)[Operand::WgradDy].quant, wgrad_gradient_context(dy, saved.x, pass, 0), arena);
}

// `second` is left to wgrad where neither one serves both nor the two can be made together.
QuantizedPair Linear::quantise_gradient(const Tensor& dy, const QTensor& w, const Saved& saved, const PassContext& pass,
                                        const PairMagnitudes& known) {
  const OperandSpec& in_dgrad = (*recipe_)[Operand::DgradDy];
  const OperandSpec& in_wgrad = (*recipe_)[Operand::WgradDy];
  const QuantizeContext rows = dgrad_gradient_context(dy, w, pass);

  if (pairs_gradients(*recipe_) && !serves_as_it_is(dy, in_dgrad.quant, rows)) {
    const QuantizeContext columns = wgrad_gradient_context(dy, saved.x, pass, 0);
    if (!serves_as_it_is(dy, in_wgrad.quant, columns)) {
      const QuantizedPair q = timed(pass.profile, "quantise", quantize_pair, dy, in_dgrad.quant, rows, in_wgrad.quant,
                                    columns, pass.arena, known);
      if (pass.measure_quality) {
        measure_operand(Operand::DgradDy, dy, q.first, rows, pass.arena, pass.profile);
        measure_operand(Operand::WgradDy, dy, q.second, columns, pass.arena, pass.profile);
      }
      return q;
    }
  }
  const QTensor q = quantise(Operand::DgradDy, dy, rows, pass.arena, pass.measure_quality, pass.profile);
  const bool shared = shares_gradient(*recipe_);
  if (shared && pass.measure_quality) {
    quality_[static_cast<std::size_t>(Operand::WgradDy)] = quality_[static_cast<std::size_t>(Operand::DgradDy)];
  }
  return {q, shared ? q : QTensor{}};
}

// dX = Q(dY) Q(W), contraction over N. Where the scales of W (one per output channel) were folded into dY, only the
// codes of W are multiplied. If Q(W) is in fprop's basis, so is the product: the trust mask of X acts there, and then
// it is rotated back. It has dX's type: BF16 loses 2^-9 of what was quantised to four bits.
void Linear::dgrad(const Tensor& dy, const Saved& saved, const Tensor& dx, const PassContext& pass,
                   const PairMagnitudes& known, QuantizedPair* q) {
  const OperandSpec& spec = (*recipe_)[Operand::DgradW];
  const bool reuses = spec.source == OperandSource::Fprop;
  const bool fold = (*recipe_)[Operand::DgradDy].fold_partner_scales;
  const QTensor own_w =
      reuses || dgrad_w_.codes.defined()
          ? QTensor{}
          : quantise_dgrad_weight(pass.seed, pass.first_token, pass.arena, pass.arena, pass.measure_quality);
  const QTensor& w = reuses ? fprop_w_ : dgrad_w_.codes.defined() ? dgrad_w_ : own_w;
  *q = quantise_gradient(dy, w, saved, pass, known);

  const bool in_basis = basis().enabled() && from_fprop(Operand::DgradW);
  const bool masked = saved.x.mask.defined();
  const bool apart = rotates_dx_back(*recipe_);
  const DType dtype = in_basis ? dx.dtype() : DType::F32;
  const Tensor product = apart ? pass.arena.allocate(dtype, {dx.rows(), dx.cols()}) : dx;
  const GemmOperand left{q->first, q->first.turned};
  const GemmOperand right{w, /*transposed=*/reuses || !spec.quant.transposed, /*scales_folded=*/fold};
  paths_[1] = gemm_path(left, right);
  timed(pass.profile, "gemm dgrad", gemm, left, right, product, Accumulate::Overwrite, pass.arena);
  if (reuses && outlier_w_.codes.defined()) {  // the columns that fprop's W has as zero
    const Tensor part = pass.arena.allocate(DType::F32, {dx.rows(), outlier_w_.cols});
    timed(pass.profile, "outliers dgrad", gemm, left, GemmOperand{outlier_w_, /*transposed=*/true}, part,
          Accumulate::Overwrite, pass.arena);
    scatter_columns(part, outliers_.channels(), product, Accumulate::Overwrite);
  }
  if (apart && !in_basis) timed(pass.profile, "rotate", hadamard_forward, product, basis(), basis_signs(), product);
  if (apart) {
    timed(pass.profile, "rotate", masked_hadamard_inverse, product, saved.x.mask, basis(), basis_signs(), dx);
  } else if (masked) {
    timed(pass.profile, "mask", apply_trust_mask, product, saved.x.mask);
  }
  if (measures(Product::Dgrad, pass)) measure_dgrad(dy, dx, pass);
}

// dW = Q(dY)^T Q(X), contraction over T, then through the rounding of W (estimator, trust mask, both in fprop's basis)
// and out of that basis; plus dY^T residual, plus the product of the outlier channels.
void Linear::wgrad(const Tensor& dy, const QTensor& ready_dy, const Saved& saved, const Tensor& dw,
                   const PassContext& pass) {
  const OperandSpec& spec_x = (*recipe_)[Operand::WgradX];
  const OperandSpec& spec_dy = (*recipe_)[Operand::WgradDy];
  const bool reuses = spec_x.source == OperandSource::Fprop;
  const bool fold = spec_dy.fold_partner_scales;
  QTensor own_x;
  if (!reuses) own_x = quantise_wgrad_x(saved, pass);
  const QTensor& x = reuses ? saved.x : own_x;
  const bool by_tokens = (reuses || !spec_x.quant.transposed) != x.turned;
  const GemmOperand right{x, /*transposed=*/by_tokens, /*scales_folded=*/fold};

  // Estimator, mask and rotation change this micro-batch's product alone, not what earlier ones accumulated.
  const bool dge = recipe_->weight_gradient.estimator == WeightGradient::Estimator::Dge;
  const bool masked = fprop_w_.mask.defined();
  const bool in_basis = basis().enabled() && from_fprop(Operand::WgradX);
  const bool rotate_back = rotates_dw_back(*recipe_);
  const bool apart = (dge || masked || rotate_back) && !pass.overwrite_gradients;
  const Tensor product = apart ? pass.arena.allocate(DType::F32, {dw.rows(), dw.cols()}) : dw;
  for (int sample = 0; sample < spec_dy.samples; ++sample) {
    const ArenaScope scope(pass.arena);
    QTensor own_dy;
    if (!ready_dy.codes.defined()) {
      const QuantizeContext context = wgrad_gradient_context(dy, x, pass, static_cast<std::uint32_t>(sample));
      own_dy = quantise(Operand::WgradDy, dy, context, pass.arena, pass.measure_quality && sample == 0, pass.profile);
      own_dy.tensor_scale /= static_cast<float>(spec_dy.samples);
    }
    const QTensor& q = ready_dy.codes.defined() ? ready_dy : own_dy;
    const GemmOperand left{q, /*transposed=*/spec_dy.quant.transposed == q.turned};
    const bool overwrite = sample == 0 && (apart || pass.overwrite_gradients);
    paths_[2] = gemm_path(left, right);
    timed(pass.profile, "gemm wgrad", gemm, left, right, product, overwrite ? Accumulate::Overwrite : Accumulate::Add,
          pass.arena);
  }
  if (rotate_back && !in_basis) {
    timed(pass.profile, "rotate", hadamard_forward, product, basis(), basis_signs(), product);
  }
  if (dge) {
    const WeightGradient& estimator = recipe_->weight_gradient;
    timed(pass.profile, "dge", dge_apply, product, in_basis_of_fprop(weight_, pass.arena), fprop_w_,
          (*recipe_)[Operand::FpropW].quant, estimator.k, estimator.clip);
  }
  if (rotate_back) {
    timed(pass.profile, "rotate", masked_hadamard_inverse, product, fprop_w_.mask, basis(), basis_signs(), product);
  } else if (masked) {
    timed(pass.profile, "mask", apply_trust_mask, product, fprop_w_.mask);
  }
  if (apart) add_in_place(dw, product);

  if (saved.x.residual.defined() && recipe_->residual_in_wgrad) {
    timed(pass.profile, "residual wgrad", spmm_wgrad, saved.x.residual, dy, dw, pass.arena);
  }
  if (splits_outliers(saved)) {
    const QTensor channels =
        quantise_outliers(StreamUse::OutlierWgradX, outlier_source(saved, pass.arena), true, Product::Wgrad, pass);
    const QTensor gradient = quantise_outliers(StreamUse::OutlierDy, dy, true, Product::Wgrad, pass);
    const Tensor part = pass.arena.allocate(DType::F32, {dw.rows(), channels.rows});
    timed(pass.profile, "outliers wgrad", gemm, GemmOperand{gradient}, GemmOperand{channels}, part,
          Accumulate::Overwrite, pass.arena);
    scatter_columns(part, outliers_.channels(), dw, Accumulate::Add);
  }
  if (measures(Product::Wgrad, pass)) measure_wgrad(dy, saved.source, dw, pass);
}

}  // namespace nibble
