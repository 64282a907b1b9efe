// Prepare, and what follows an update, where ranks share the rows of W: weight_gather.h for one layer.
#include <algorithm>

#include "nibble/quant/hadamard.h"
#include "nibble/quant/requantize.h"
#include "nibble/recipe/columns.h"
#include "nibble/recipe/linear.h"
#include "nibble/recipe/product_quality.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

/// Rows that a quantiser takes whatever its transform along them.
std::int64_t rows_of_nothing(const QuantSpec& spec) {
  return spec.transposed ? std::max<std::int64_t>(1, spec.hadamard.group) : 1;
}

void require_rows(const WeightRows& w, const Communicator& communicator, const std::string& layer) {
  require(w.values.dtype() == DType::F32 && w.values.rows() == w.range().size() && w.rank == communicator.rank() &&
              w.pieces.ranks() == communicator.size(),
          "{}: {} as rows {} to {} of rank {}, among {} ranks", layer, to_string(w.values), w.range().begin,
          w.range().end, w.rank, communicator.size());
}

}  // namespace

std::int64_t Linear::chosen_channels() const { return outliers_.chosen() ? outliers_.channels().numel() : 0; }

WeightGather Linear::gather(const WeightRows& w, WeightUse use, bool measure) {
  ensure_state(w.values);
  return weight_gather(*recipe_, w.pieces, w.cols(), use, chosen_channels(), measure);
}

const QuantSpec& Linear::spec_of(WeightOperand which) const {
  switch (which) {
    case WeightOperand::Fprop: return (*recipe_)[Operand::FpropW].quant;
    case WeightOperand::Dgrad: return (*recipe_)[Operand::DgradW].quant;
    case WeightOperand::Outliers: break;
  }
  return recipe_->outlier_channels.quant;
}

std::int64_t Linear::cols_of(WeightOperand which, const WeightRows& w) const {
  return which == WeightOperand::Outliers ? outliers_.channels().numel() : w.cols();
}

// A rank without rows takes some of zeros: the scales that cover all rows follow from the magnitudes alone.
Linear::WeightSource Linear::own_source(WeightOperand which, const WeightRows& w, std::uint32_t step,
                                        const Tensor& magnitudes, Arena& scratch) const {
  Part part;
  part.first = w.range().begin;
  part.of = w.pieces.rows();
  part.magnitudes = magnitudes;
  Tensor rows = w.values;
  if (rows.rows() == 0) {
    rows = scratch.allocate(DType::F32, {rows_of_nothing(spec_of(which)), w.cols()});
    fill_zero(rows);
    part.average = rows;
  }
  switch (which) {
    case WeightOperand::Fprop: return weight_source(rows, step, scratch, false, part);
    case WeightOperand::Dgrad: return dgrad_weight_source(rows, seed_, 0, false, part);
    case WeightOperand::Outliers: break;
  }
  return weight_outlier_source(rows, step, scratch, part);
}

std::int64_t Linear::magnitudes(const WeightRows& w) {
  ensure_state(w.values);
  const auto n = weight_magnitudes(*recipe_, w.pieces, w.cols(), chosen_channels());
  return n[0] + n[1] + n[2];
}

// Undefined where the operand's scales share none.
std::array<Tensor, 3> Linear::magnitudes_of_operands(const WeightRows& w, const Tensor& all) const {
  const auto n = weight_magnitudes(*recipe_, w.pieces, w.cols(), chosen_channels());
  require(all.dtype() == DType::I32 && all.numel() == n[0] + n[1] + n[2], "{}: {} for {} magnitudes", name_,
          to_string(all), n[0] + n[1] + n[2]);
  std::array<Tensor, 3> of;
  std::int64_t at = 0;
  for (std::size_t i = 0; i < of.size(); at += n[i++]) {
    if (n[i] > 0) of[i] = all.elements(at, at + n[i]);
  }
  return of;
}

void Linear::find_magnitudes(const WeightRows& w, std::uint64_t seed, std::uint32_t step, const Tensor& magnitudes,
                             Arena& scratch) {
  seed_ = seed;
  step_ = step;
  ensure_state(w.values);
  const std::array<Tensor, 3> of = magnitudes_of_operands(w, magnitudes);
  for (std::size_t i = 0; i < of.size(); ++i) {
    if (!of[i].defined()) continue;
    const ArenaScope scope(scratch);
    const WeightSource own = own_source(kWeightOperands[i], w, step, {}, scratch);
    shared_amax(own.values, spec_of(kWeightOperands[i]), own.context, of[i], scratch);
  }
}

const WeightGather& Linear::start_prepare(const WeightRows& w, const Tensor& magnitudes, Communicator& communicator,
                                          std::uint64_t seed, std::uint32_t step, Arena& weight_arena, Arena& scratch,
                                          WeightUse use, bool measure, bool again) {
  require_rows(w, communicator, name_);
  seed_ = seed;
  step_ = step;
  gathering_ = std::make_unique<Gathering>();
  Gathering& g = *gathering_;
  g.plan = gather(w, use, measure);
  g.needs = weight_needs(*recipe_, use, chosen_channels());
  g.weight_arena = &weight_arena;
  g.measure = measure;
  g.again = again;
  g.own = w.range();
  weight_ =
      communicator.size() == 1 ? w.values : Tensor(nullptr, DType::F32, {w.pieces.rows(), w.cols()}, w.values.device());
  const std::array<Tensor, 3> of = magnitudes_of_operands(w, magnitudes);
  const std::array<std::pair<bool, RowGather*>, 3> operands = {
      {{g.plan.fprop, &g.fprop}, {g.plan.dgrad, &g.dgrad}, {g.plan.outliers, &g.outliers}}};
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto& [travels, to] = operands[i];
    if (!travels) continue;
    const WeightOperand which = kWeightOperands[i];
    const ArenaScope scope(scratch);
    const WeightSource own = own_source(which, w, step, of[i], scratch);
    *to = RowGather(quantize(own.values, spec_of(which), own.context, scratch), spec_of(which), w.pieces,
                    cols_of(which, w), communicator, weight_arena);
  }
  const auto values = [&](const Tensor& rows, DType dtype) {
    return ValueGather(rows, dtype, w.pieces, communicator, weight_arena);
  };
  if (g.plan.bf16_rows) g.bf16_rows = values(w.values, DType::BF16);
  if (g.plan.average) g.average = values(weight_average_, DType::F32);
  if (g.plan.weight.has_value()) g.weight = values(w.values, *g.plan.weight);
  return g.plan;
}

void Linear::finish_prepare(Arena& scratch) {
  require(gathering_ != nullptr, "{}: finish_prepare without start_prepare", name_);
  Gathering& g = *gathering_;
  const ArenaScope scope(scratch);
  if (g.plan.weight.has_value()) weight_ = g.weight.finish();
  prepare_operands(g.needs, &g, *g.weight_arena, scratch, g.measure, g.again);
  if (g.measure && !g.again) keep_measured_rows(g.own, scratch);
  gathering_.reset();
}

// What measure_oscillation of shared rows compares with: the sample's rows that are this rank's, in fprop's basis.
void Linear::keep_measured_rows(RowRange own, Arena& scratch) {
  measured_before_ = {};
  measured_quantised_ = {};
  if (!has_scale((*recipe_)[Operand::FpropW].quant.element)) return;
  const RowRange sample{own.begin, std::max(own.begin, std::min(own.end, measured_rows(weight_.rows(), 1)))};
  const auto keep = [&](const Tensor& rows) {
    OwnedTensor kept(DType::F32, {sample.size(), weight_.cols()}, weight_.device());
    if (sample.size() > 0) copy(rows, kept);
    return kept;
  };
  measured_quantised_ = keep(forward_weight(fprop_w_, outlier_w_, scratch).row_range(sample.begin, sample.end));
  measured_before_ =
      keep(sample.size() == 0 ? Tensor() : in_basis_of_fprop(weight_.row_range(sample.begin, sample.end), scratch));
}

// Quantised with the others' rows or, where pieces can't be, as part of the whole.
Linear::OwnRows Linear::quantise_own_rows(WeightOperand which, const WeightRows& w, std::uint32_t step,
                                          Communicator& communicator, Arena& scratch) {
  const QuantSpec& spec = spec_of(which);
  if (quantises_by_pieces(spec, w.pieces)) {
    Tensor magnitudes;
    if (const std::int64_t n = shared_amaxes(spec, cols_of(which, w)); n > 0) {
      magnitudes = scratch.allocate(DType::I32, {n});
      const WeightSource own = own_source(which, w, step, {}, scratch);
      shared_amax(own.values, spec, own.context, magnitudes, scratch);
      communicator.all_reduce(magnitudes, Reduce::Max);
    }
    const WeightSource own = own_source(which, w, step, magnitudes, scratch);
    return {quantize(own.values, spec, own.context, scratch), {0, w.range().size()}};
  }
  const auto values = [&](const Tensor& rows) {
    return ValueGather(rows, DType::F32, w.pieces, communicator, scratch).finish();
  };
  Part whole;
  const Tensor all = values(w.values);
  if (which == WeightOperand::Fprop && spec.rounding == Rounding::Reference) whole.average = values(weight_average_);
  const WeightSource source = which == WeightOperand::Fprop ? weight_source(all, step, scratch, true, whole)
                                                            : weight_outlier_source(all, step, scratch, whole);
  return {quantize(source.values, spec, source.context, scratch), w.range()};
}

std::int64_t Linear::after_update(const WeightRows& w, Communicator& communicator, std::int64_t step,
                                  std::int64_t steps, Arena& scratch) {
  require_rows(w, communicator, name_);
  ensure_state(w.values);
  outliers_.finish_step(step);
  move_average(w.values, step);
  if (measured_before_.view().defined()) measure_oscillation(w, communicator, scratch);
  if (!oscillation_watch_.wants(step, steps)) return 0;
  const ArenaScope scope(scratch);
  const OwnRows own =
      quantise_own_rows(WeightOperand::Fprop, w, static_cast<std::uint32_t>(step + 1), communicator, scratch);
  return w.values.rows() == 0 ? 0 : reset_oscillating(w.values, own.q, own.rows, step, steps, scratch);
}

// Both sums are over the sample's rows in order, so every rank needs all of them: each adds its own to zeros.
void Linear::measure_oscillation(const WeightRows& w, Communicator& communicator, Arena& scratch) {
  const ArenaScope scope(scratch);
  const std::int64_t rows = measured_rows(w.pieces.rows(), 1);
  const std::int64_t mine = measured_before_.view().rows();
  const OwnRows own = quantise_own_rows(WeightOperand::Fprop, w, step_, communicator, scratch);
  OwnRows outliers;
  if (outliers_.chosen()) outliers = quantise_own_rows(WeightOperand::Outliers, w, step_, communicator, scratch);
  const Tensor all = scratch.allocate(DType::F32, {4 * rows, w.cols()});
  fill_zero(all);
  const auto of = [&](std::int64_t which) { return all.row_range(which * rows, (which + 1) * rows); };
  if (mine > 0) {
    // Both operands have all of W's rows, or both this rank's: the outliers' follow fprop's.
    const Tensor quantised = own_values(own, scratch);
    if (outliers_.chosen()) {
      scatter_columns(own_values(outliers, scratch), outliers_.channels(), quantised, Accumulate::Overwrite);
    }
    const std::int64_t first = w.range().begin;
    const auto place = [&](std::int64_t which, const Tensor& from) {
      copy(from.row_range(0, mine), of(which).row_range(first, first + mine));
    };
    place(0, measured_quantised_);
    place(1, quantised);
    place(2, measured_before_);
    place(3, in_basis_of_fprop(w.values.row_range(0, mine), scratch));
  }
  communicator.all_reduce(all, Reduce::Sum);
  oscillation_ = Oscillation{sum_of_distances(of(1), of(0)), sum_of_distances(of(3), of(2))};
  measured_before_ = {};
  measured_quantised_ = {};
}

Tensor Linear::own_values(const OwnRows& own, Arena& arena) {
  return stored_values(own.q, arena).row_range(own.rows.begin, own.rows.end);
}

}  // namespace nibble
