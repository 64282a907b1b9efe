// What a Linear's operands are quantised from, and by which random numbers.
#include "nibble/quant/hadamard.h"
#include "nibble/quant/requantize.h"
#include "nibble/recipe/columns.h"
#include "nibble/recipe/linear.h"

namespace nibble {

namespace {

Product product_of(Operand operand) { return static_cast<Product>(static_cast<std::uint8_t>(operand) / 2); }

}  // namespace

RandomStream Linear::basis_signs() const { return sign_stream(seed_, step_, id_, Product::Fprop, basis().signs, 0); }

// The signs are those of the step that the weight was prepared for, so that an evaluation agrees with the weight.
QuantizeContext Linear::token_context(RandomStream random, const QuantSpec& spec, Product product, const Tensor& x,
                                      const PassContext& pass) const {
  QuantizeContext context;
  context.random = random;
  context.signs = sign_stream(seed_, step_, id_, product, spec.hadamard.signs, pass.first_token);
  if (spec.transposed) {
    const std::int64_t tokens = pass.tokens_per_step == 0 ? x.rows() : pass.tokens_per_step;
    require(pass.first_token + x.rows() <= tokens, "{}: tokens {} to {} of a step of {}", name_, pass.first_token,
            pass.first_token + x.rows(), tokens);
    context.element_stride = static_cast<std::uint64_t>(tokens);
    context.element_offset = static_cast<std::uint64_t>(pass.first_token);
  } else {
    context.element_offset = static_cast<std::uint64_t>(pass.first_token * x.cols());
  }
  return context;
}

QuantizeContext Linear::token_context(Operand operand, const Tensor& x, const PassContext& pass,
                                      std::uint32_t sample) const {
  return token_context(operand_stream(pass.seed, pass.step, id_, operand, sample), (*recipe_)[operand].quant,
                       product_of(operand), x, pass);
}

// `x` is wgrad's other operand, whose scales (one per token) may be folded in.
QuantizeContext Linear::wgrad_gradient_context(const Tensor& dy, const QTensor& x, const PassContext& pass,
                                               std::uint32_t sample) const {
  QuantizeContext context = token_context(Operand::WgradDy, dy, pass, sample);
  if ((*recipe_)[Operand::WgradDy].fold_partner_scales) {
    context.row_fold = x.scales.reshape({x.turned ? x.cols : x.rows});
  }
  context.for_product = !pass.measure_quality;
  return context;
}

// The amax that fprop's quantiser wants, into its context, and the one that wgrad's will want of the same X, where one
// pass finds both.
Tensor Linear::find_amaxes(const Tensor& x, QuantizeContext& fprop, const PassContext& pass) const {
  const OperandSpec& in_wgrad = (*recipe_)[Operand::WgradX];
  const QuantSpec& in_fprop = (*recipe_)[Operand::FpropX].quant;
  const bool wanted = !pass.inference && in_wgrad.source == OperandSource::HighPrecision &&
                      in_wgrad.quant.scale == ScaleRule::Nvfp4 && in_fprop.scale == ScaleRule::Nvfp4 &&
                      !outlier_w_.codes.defined();
  if (!wanted) return {};
  QuantizeContext wgrad;
  wgrad.signs = sign_stream(seed_, step_, id_, Product::Wgrad, in_wgrad.quant.hadamard.signs, pass.first_token);
  const AmaxPair amax =
      timed(pass.profile, "quantise", amax_pair, x, in_fprop, fprop, in_wgrad.quant, wgrad, pass.arena);
  fprop.amax = amax.first;
  return amax.second;
}

// Neither quantised again nor watched, and stored by rows, as the folds of dgrad have its scales.
bool Linear::codes_are_only_multiplied() const {
  return (*recipe_)[Operand::FpropW].quant.granularity != Granularity::per_column() &&
         (*recipe_)[Operand::DgradW].source != OperandSource::Requantise && !recipe_->oscillation_reset.enabled() &&
         !recipe_->outlier_channels.enabled();
}

// Random numbers are keyed by the place in the whole W.
Linear::WeightSource Linear::weight_source(const Tensor& w, std::uint32_t step, Arena& arena, bool measure,
                                           const Part& part) const {
  QuantizeContext context;
  context.random = operand_stream(seed_, step, id_, Operand::FpropW);
  context.signs = sign_stream(seed_, step, id_, Product::Fprop, basis().signs, 0);
  context.for_product = !measure && part.of == 0 && codes_are_only_multiplied();
  context.element_offset = static_cast<std::uint64_t>(part.first * w.cols());
  context.amax = part.magnitudes;
  if ((*recipe_)[Operand::FpropW].quant.rounding != Rounding::Reference) {
    if (outliers_.chosen()) context.col_fold = outliers_.others(arena);
    return {w, context};
  }
  context.reference = part.average.defined() ? part.average : weight_average_.view();
  if (!outliers_.chosen()) return {w, context};
  const Tensor others = arena.allocate(DType::F32, {w.rows(), w.cols()});  // a reference takes no factors
  convert(w, others);
  zero_columns(others, outliers_.channels());
  return {others, context};
}

QTensor Linear::quantise_weight(const Tensor& w, std::uint32_t step, Arena& arena, bool measure, const Part& part) {
  const WeightSource source = weight_source(w, step, arena, measure, part);
  return quantise(Operand::FpropW, source.values, source.context, arena, measure, nullptr);
}

// Signs that change with every pass, and then the rounding too, are told apart by the pass's first token.
Linear::WeightSource Linear::dgrad_weight_source(const Tensor& w, std::uint64_t seed, std::int64_t first_token,
                                                 bool measure, const Part& part) const {
  const QuantSpec& spec = (*recipe_)[Operand::DgradW].quant;
  QuantizeContext context;
  context.random = operand_stream(call_seed(seed, first_token), step_, id_, Operand::DgradW);
  context.signs = sign_stream(seed, step_, id_, Product::Dgrad, spec.hadamard.signs, first_token);
  context.for_product = !measure && part.of == 0 && spec.granularity != Granularity::per_column();
  context.element_offset = static_cast<std::uint64_t>(part.first * (spec.transposed ? 1 : w.cols()));
  context.element_stride = static_cast<std::uint64_t>(spec.transposed ? part.of : 0);
  context.amax = part.magnitudes;
  return {w, context};
}

// Without a part in fprop's basis where the source is high precision.
QTensor Linear::quantise_dgrad_weight(std::uint64_t seed, std::int64_t first_token, Arena& arena, Arena& scratch,
                                      bool measure) {
  const OperandSpec& spec = (*recipe_)[Operand::DgradW];
  const QuantizeContext context = dgrad_weight_source(weight_, seed, first_token, measure, {}).context;
  const bool again = spec.source == OperandSource::Requantise;
  if (again && !measure && !outlier_w_.codes.defined()) {
    return requantize(fprop_w_, spec.quant, context, arena, scratch);
  }
  if (!again) require_weight("dgrad.w");
  const Tensor source = again ? forward_weight(fprop_w_, outlier_w_, scratch) : weight_;
  return quantise(Operand::DgradW, source, context, arena, measure, nullptr);
}

// W as fprop sees it: what is stored in four bits (in fprop's basis) and, in their columns, the outlier channels.
Tensor Linear::forward_weight(const QTensor& w, const QTensor& outliers, Arena& arena) const {
  const Tensor values = stored_values(w, arena);
  if (outliers.codes.defined()) {
    scatter_columns(stored_values(outliers, arena), outliers_.channels(), values, Accumulate::Overwrite);
  }
  return values;
}

Tensor Linear::in_basis_of_fprop(const Tensor& w, Arena& arena) const {
  if (!basis().enabled()) return w;
  const Tensor rotated = arena.allocate(DType::F32, {w.rows(), w.cols()});
  hadamard_forward(w, basis(), basis_signs(), rotated);
  return rotated;
}

QTensor Linear::quantise_outliers(StreamUse use, const Tensor& channels, bool transposed, Product product,
                                  const PassContext& pass) {
  QuantSpec spec = recipe_->outlier_channels.quant;
  spec.transposed = transposed;
  const RandomStream random = layer_stream(pass.seed, pass.step, id_, use);
  return timed(pass.profile, "quantise", quantize, channels, spec, token_context(random, spec, product, channels, pass),
               pass.arena);
}

Linear::WeightSource Linear::weight_outlier_source(const Tensor& w, std::uint32_t step, Arena& arena,
                                                   const Part& part) const {
  const Tensor channels = arena.allocate(w.dtype(), {w.rows(), outliers_.channels().numel()});
  gather_columns(w, outliers_.channels(), channels);
  QuantizeContext context;
  context.random = layer_stream(seed_, step, id_, StreamUse::OutlierW);
  context.element_offset = static_cast<std::uint64_t>(part.first * channels.cols());
  context.amax = part.magnitudes;
  return {channels, context};
}

QTensor Linear::quantise_weight_outliers(const Tensor& w, std::uint32_t step, Arena& arena) {
  const WeightSource source = weight_outlier_source(w, step, arena, {});
  return quantize(source.values, recipe_->outlier_channels.quant, source.context, arena);
}

// Unquantised X in wgrad has no outliers to keep apart.
bool Linear::splits_outliers(const Saved& saved) const {
  return saved.outliers.codes.defined() &&
         (from_fprop(Operand::WgradX) || has_scale((*recipe_)[Operand::WgradX].quant.element));
}

// What wgrad quantises X from: fprop's values, or X with its outlier channels zero, as fprop's quantiser saw it.
Tensor Linear::wgrad_source(const Saved& saved, Arena& arena) const {
  if ((*recipe_)[Operand::WgradX].source == OperandSource::Requantise) return stored_values(saved.x, arena);
  if (!splits_outliers(saved)) return saved.source;
  const Tensor others = arena.allocate(saved.source.dtype(), {saved.source.rows(), saved.source.cols()});
  convert(saved.source, others);
  zero_columns(others, outliers_.channels());
  return others;
}

// What fprop stored is quantised as it lies, but where it is measured against its values.
QTensor Linear::quantise_wgrad_x(const Saved& saved, const PassContext& pass) {
  const OperandSpec& spec = (*recipe_)[Operand::WgradX];
  const bool as_it_lies = spec.source == OperandSource::Requantise && !pass.measure_quality;
  const Tensor source = as_it_lies ? Tensor(nullptr, DType::F32, {saved.x.rows, saved.x.cols}, saved.x.codes.device())
                                   : wgrad_source(saved, pass.arena);
  QuantizeContext context = token_context(Operand::WgradX, source, pass);
  context.for_product = !pass.measure_quality;
  context.amax = saved.wgrad_amax;
  if (as_it_lies) {
    return timed(pass.profile, "quantise", requantize, saved.x, spec.quant, context, pass.arena, pass.arena);
  }
  return quantise(Operand::WgradX, source, context, pass.arena, pass.measure_quality, pass.profile);
}

Tensor Linear::outlier_source(const Saved& saved, Arena& arena) const {
  if (from_fprop(Operand::WgradX)) return stored_values(saved.outliers, arena);
  const Tensor channels = arena.allocate(saved.source.dtype(), {saved.source.rows(), saved.outliers.cols});
  gather_columns(saved.source, outliers_.channels(), channels);
  return channels;
}

}  // namespace nibble
