// The public functions of the room: the backend of the tensor's device does the work.
#include "nibble/recipe/backend.h"

namespace nibble {

namespace {

bool on_gpu(const Tensor& tensor) { return tensor.device() == Device::Cuda; }

}  // namespace

void gather_columns(const Tensor& x, const Tensor& columns, const Tensor& out) {
  on_gpu(x) ? cuda::gather_columns(x, columns, out) : cpu::gather_columns(x, columns, out);
}

void scatter_columns(const Tensor& part, const Tensor& columns, const Tensor& to, Accumulate accumulate) {
  on_gpu(to) ? cuda::scatter_columns(part, columns, to, accumulate)
             : cpu::scatter_columns(part, columns, to, accumulate);
}

void zero_columns(const Tensor& x, const Tensor& columns) {
  on_gpu(x) ? cuda::zero_columns(x, columns) : cpu::zero_columns(x, columns);
}

void add_column_squares(const Tensor& x, const Tensor& sums) {
  on_gpu(x) ? cuda::add_column_squares(x, sums) : cpu::add_column_squares(x, sums);
}

void hiding_factors(const Tensor& columns, const Tensor& factors) {
  on_gpu(factors) ? cuda::hiding_factors(columns, factors) : cpu::hiding_factors(columns, factors);
}

void place_columns(const Tensor& from, const Tensor& to, std::int64_t first) {
  require(from.dtype() == to.dtype() && from.rows() == to.rows() && first >= 0, "place_columns of {} into {} from {}",
          to_string(from), to_string(to), first);
  if (from.numel() == 0 || first >= to.cols()) return;
  on_gpu(to) ? cuda::place_columns(from, to, first) : cpu::place_columns(from, to, first);
}

void first_columns(const Tensor& x, const Tensor& out) {
  on_gpu(x) ? cuda::first_columns(x, out) : cpu::first_columns(x, out);
}

void apply_trust_mask(const Tensor& gradient, const Tensor& mask) {
  on_gpu(gradient) ? cuda::apply_trust_mask(gradient, mask) : cpu::apply_trust_mask(gradient, mask);
}

void masked_hadamard_inverse(const Tensor& gradient, const Tensor& mask, const Hadamard& transform,
                             const RandomStream& stream, const Tensor& out) {
  on_gpu(gradient) ? cuda::masked_hadamard_inverse(gradient, mask, transform, stream, out)
                   : cpu::masked_hadamard_inverse(gradient, mask, transform, stream, out);
}

ProductQuality compare_products(const Tensor& exact, const Tensor& computed, const Tensor& before) {
  return on_gpu(exact) ? cuda::compare_products(exact, computed, before)
                       : cpu::compare_products(exact, computed, before);
}

double sum_of_distances(const Tensor& a, const Tensor& b) {
  return on_gpu(a) ? cuda::sum_of_distances(a, b) : cpu::sum_of_distances(a, b);
}

void update_average(const Tensor& average, const Tensor& w, double decay) {
  on_gpu(w) ? cuda::update_average(average, w, decay) : cpu::update_average(average, w, decay);
}

void add_way(const Tensor& now, const Tensor& last, const Tensor& way) {
  on_gpu(now) ? cuda::add_way(now, last, way) : cpu::add_way(now, last, way);
}

void reset_by_ratio(const Tensor& w, const Tensor& quantised, const Tensor& weight_way, const Tensor& quantised_way,
                    float threshold, const Tensor& flagged) {
  on_gpu(w) ? cuda::reset_by_ratio(w, quantised, weight_way, quantised_way, threshold, flagged)
            : cpu::reset_by_ratio(w, quantised, weight_way, quantised_way, threshold, flagged);
}

void reset_at_edge(const Tensor& w, const Tensor& quantised, const Tensor& scales, float threshold,
                   const Tensor& flagged) {
  on_gpu(w) ? cuda::reset_at_edge(w, quantised, scales, threshold, flagged)
            : cpu::reset_at_edge(w, quantised, scales, threshold, flagged);
}

void copy_flagged_rows(const Tensor& from, const Tensor& flagged, const Tensor& to) {
  on_gpu(to) ? cuda::copy_flagged_rows(from, flagged, to) : cpu::copy_flagged_rows(from, flagged, to);
}

void fill_bytes(const Tensor& bytes, std::uint8_t value) {
  on_gpu(bytes) ? cuda::fill_bytes(bytes, value) : cpu::fill_bytes(bytes, value);
}

}  // namespace nibble
