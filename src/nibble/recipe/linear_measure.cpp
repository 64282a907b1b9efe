// Measurements of a Linear's products and of its weight's way.
#include <algorithm>

#include "nibble/recipe/columns.h"
#include "nibble/recipe/linear.h"

namespace nibble {

std::int64_t measured_rows(std::int64_t rows, std::int64_t least) {
  return std::min(rows, std::max(least, (rows + 7) / 8));
}

bool Linear::measures(Product product, const PassContext& pass) const {
  if (!pass.measure_quality || !pass.overwrite_gradients || pass.again) return false;
  const LinearRecipe& r = *recipe_;
  const auto quantised = [&](Operand o) { return has_scale(r[o].quant.element); };
  const bool w = quantised(Operand::FpropW);
  const bool x = quantised(Operand::FpropX);
  const auto backward = [&](Operand dy, Operand other, bool fprop) {
    return quantised(dy) || (from_fprop(other) && fprop) ||
           (r[other].source != OperandSource::Fprop && quantised(other));
  };
  switch (product) {
    case Product::Fprop: return x || w;
    case Product::Dgrad: return backward(Operand::DgradDy, Operand::DgradW, w);
    case Product::Wgrad: return backward(Operand::WgradDy, Operand::WgradX, x);
  }
  return false;
}

void Linear::measure_fprop(const Tensor& x, const Tensor& y, const Tensor& before, const PassContext& pass) {
  const ArenaScope scope(pass.arena);
  const std::int64_t rows = measured_rows(x.rows(), kMeasuredTokens);
  const Tensor exact = pass.arena.allocate(DType::F32, {rows, y.cols()});
  const QTensor left = QTensor::view(x.row_range(0, rows));
  const QTensor right = QTensor::view(weight_);
  timed(pass.profile, "measure", gemm, GemmOperand{left}, GemmOperand{right}, exact, Accumulate::Overwrite, pass.arena);
  products_[0].merge(compare_products(exact, y.row_range(0, rows), before));
}

void Linear::measure_dgrad(const Tensor& dy, const Tensor& dx, const PassContext& pass) {
  const ArenaScope scope(pass.arena);
  const std::int64_t rows = measured_rows(dy.rows(), kMeasuredTokens);
  const Tensor exact = pass.arena.allocate(DType::F32, {rows, dx.cols()});
  const QTensor left = QTensor::view(dy.row_range(0, rows));
  const QTensor right = QTensor::view(weight_);
  timed(pass.profile, "measure", gemm, GemmOperand{left}, GemmOperand{right, /*transposed=*/true}, exact,
        Accumulate::Overwrite, pass.arena);
  products_[1].merge(compare_products(exact, dx.row_range(0, rows), Tensor()));
}

void Linear::measure_wgrad(const Tensor& dy, const Tensor& x, const Tensor& dw, const PassContext& pass) {
  const ArenaScope scope(pass.arena);
  const std::int64_t rows = measured_rows(dw.rows(), 1);
  const Tensor exact = pass.arena.allocate(DType::F32, {rows, dw.cols()});
  const Tensor part = pass.arena.allocate(dy.dtype(), {dy.rows(), rows});
  first_columns(dy, part);
  const QTensor left = QTensor::view(part);
  const QTensor right = QTensor::view(x);
  timed(pass.profile, "measure", gemm, GemmOperand{left, /*transposed=*/true}, GemmOperand{right, /*transposed=*/true},
        exact, Accumulate::Overwrite, pass.arena);
  products_[2].merge(compare_products(exact, dw.row_range(0, rows), Tensor()));
}

// In fprop's basis, where a weight's rounding happens, with the signs and random numbers of the measured step for both:
// what is left is the weight's own way.
void Linear::measure_oscillation(const Tensor& w, Arena& scratch) {
  const ArenaScope scope(scratch);
  const std::int64_t rows = measured_weight_.rows();
  const QTensor q = quantise_weight(w, step_, scratch, false, {});
  const QTensor outliers = outliers_.chosen() ? quantise_weight_outliers(w, step_, scratch) : QTensor{};
  const Tensor before = forward_weight(fprop_w_, outlier_w_, scratch);
  const Tensor after = forward_weight(q, outliers, scratch);
  const Tensor from = in_basis_of_fprop(measured_weight_, scratch);
  const Tensor to = in_basis_of_fprop(w.row_range(0, rows), scratch);
  oscillation_ =
      Oscillation{sum_of_distances(after.row_range(0, rows), before.row_range(0, rows)), sum_of_distances(to, from)};
  measured_weight_ = {};
}

LinearQuality Linear::quality() const {
  LinearQuality all = quality_;
  for (const auto& [reused, original] :
       {std::pair{Operand::DgradW, Operand::FpropW}, std::pair{Operand::WgradX, Operand::FpropX}}) {
    if ((*recipe_)[reused].source == OperandSource::Fprop) {
      all[static_cast<std::size_t>(reused)] = quality_[static_cast<std::size_t>(original)];
    }
  }
  return all;
}

void Linear::reset_quality() {
  quality_ = {};
  products_ = {};
}

}  // namespace nibble
