// What a Linear keeps from step to step: the moving average of W, the choice of outlier channels, and the watch over
// oscillating weights.
#include "nibble/numerics/e2m1.h"
#include "nibble/quant/hadamard.h"
#include "nibble/recipe/columns.h"
#include "nibble/recipe/linear.h"
#include "nibble/recipe/weight_passes.h"

namespace nibble {

namespace {

bool same_choice(const OutlierChannels& a, const OutlierChannels& b) {
  return a.share == b.share && a.multiple == b.multiple && a.first_step == b.first_step && a.last_step == b.last_step;
}

bool same_watch(const LinearRecipe& a, const LinearRecipe& b) {
  const OscillationReset& x = a.oscillation_reset;
  const OscillationReset& y = b.oscillation_reset;
  return x.criterion == y.criterion && x.threshold == y.threshold && x.start_fraction == y.start_fraction &&
         x.period == y.period && x.window == y.window && a[Operand::FpropW] == b[Operand::FpropW];
}

/// The decode scale of every element: what q decodes to when every code stands for 1.
Tensor element_scales(const QTensor& q, Arena& arena) {
  QTensor ones = q;
  ones.residual = {};
  ones.codes = arena.allocate(DType::U8, {q.rows, q.code_row_bytes()});
  const std::uint8_t one = e2m1_encode<Tie::Even>(1.0f);
  fill_bytes(ones.codes, static_cast<std::uint8_t>(one << 4 | one));
  const Tensor scales = arena.allocate(DType::F32, {q.rows, q.cols});
  dequantize(ones, scales);
  return scales;
}

}  // namespace

void Linear::set_stage(std::size_t stage) {
  const LinearRecipe& next = whole_recipe_.resolve(name_, block_, blocks_, stage);
  const LinearRecipe& last = *recipe_;
  if (&next == &last) return;
  recipe_ = &next;
  if (!same_choice(next.outlier_channels, last.outlier_channels)) outliers_ = {};
  if (!next.weight_average.enabled()) weight_average_ = {};
  if (!same_watch(next, last)) oscillation_watch_ = {};
  has_state_ = false;
  oscillation_.reset();
  measured_weight_ = {};
  measured_before_ = {};
  measured_quantised_ = {};
  gathering_.reset();
  fprop_w_ = dgrad_w_ = outlier_w_ = {};
}

void Linear::ensure_state(const Tensor& w) {
  if (has_state_) return;
  has_state_ = true;
  if (recipe_->outlier_channels.enabled() && !outliers_.channels().defined()) {
    outliers_ = OutlierSelection(recipe_->outlier_channels, w.cols(), w.device());
  }
  if (recipe_->weight_average.enabled() && !weight_average_.view().defined()) {
    weight_average_ = OwnedTensor(DType::F32, {w.rows(), w.cols()}, w.device());
    convert(w, weight_average_);
  }
  if (recipe_->oscillation_reset.enabled() && !oscillation_watch_.enabled()) {
    oscillation_watch_ = OscillationWatch(recipe_->oscillation_reset, w.rows(), w.cols(), w.device());
  }
}

void Linear::visit_state(const Tensor& w, const std::function<void(const std::string& name, const Tensor& tensor)>& f) {
  ensure_state(w);
  outliers_.visit_state(f);
  if (weight_average_.view().defined()) f("weight_average", weight_average_);
  oscillation_watch_.visit_state(f);
}

void Linear::move_average(const Tensor& w, std::int64_t step) {
  const WeightAverage& average = recipe_->weight_average;
  if (!average.enabled() || w.rows() == 0) return;
  if (step <= average.start_step) {
    convert(w, weight_average_);
  } else {
    update_average(weight_average_, w, average.decay);
  }
}

std::int64_t Linear::after_update(const Tensor& w, std::int64_t step, std::int64_t steps, Arena& scratch) {
  ensure_state(w);
  outliers_.finish_step(step);
  move_average(w, step);
  if (measured_weight_.defined()) measure_oscillation(w, scratch);
  if (!oscillation_watch_.wants(step, steps)) return 0;
  const ArenaScope scope(scratch);
  const QTensor q = quantise_weight(w, static_cast<std::uint32_t>(step + 1), scratch, false, {});
  return reset_oscillating(w, q, {0, w.rows()}, step, steps, scratch);
}

// Everything in fprop's basis, where W is quantised: w, or more rows, as q. Rows without a flagged element keep their
// bits.
std::int64_t Linear::reset_oscillating(const Tensor& w, const QTensor& q, RowRange rows_of_q, std::int64_t step,
                                       std::int64_t steps, Arena& scratch) {
  const RandomStream signs =
      sign_stream(seed_, static_cast<std::uint32_t>(step + 1), id_, Product::Fprop, basis().signs, 0);
  const Tensor values = scratch.allocate(DType::F32, {w.rows(), w.cols()});
  if (basis().enabled()) {
    hadamard_forward(w, basis(), signs, values);
  } else {
    convert(w, values);
  }
  const Tensor dequantised = scratch.allocate(DType::F32, {q.rows, q.cols});
  dequantize(q, dequantised);
  const Tensor quantised = dequantised.row_range(rows_of_q.begin, rows_of_q.end);
  if (outliers_.chosen()) {  // not in four bits: their own value, so that they stay as they are
    const Tensor channels = scratch.allocate(DType::F32, {w.rows(), outliers_.channels().numel()});
    gather_columns(values, outliers_.channels(), channels);
    scatter_columns(channels, outliers_.channels(), quantised, Accumulate::Overwrite);
  }
  const Tensor scales = oscillation_watch_.wants_scales()
                            ? element_scales(q, scratch).row_range(rows_of_q.begin, rows_of_q.end)
                            : Tensor();
  const Tensor flagged = scratch.allocate(DType::I32, {w.rows()});
  const std::int64_t resets = oscillation_watch_.observe(values, quantised, scales, step, steps, flagged);
  if (resets > 0) {
    if (basis().enabled()) hadamard_inverse(values, basis(), signs, values);
    copy_flagged_rows(values, flagged, w);
  }
  return resets;
}

}  // namespace nibble
