// The public functions of the room: the backend of the tensor's device does the work.
#include "nibble/quant/backend.h"

namespace nibble {

namespace {

bool on_gpu(const Tensor& tensor) { return tensor.device() == Device::Cuda; }

}  // namespace

QTensor quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  return on_gpu(x) ? cuda::quantize(x, spec, context, arena) : cpu::quantize(x, spec, context, arena);
}

QuantizedPair quantize_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                            const QuantizeContext& in_b, Arena& arena, const PairMagnitudes& known) {
  return on_gpu(x) ? cuda::quantize_pair(x, a, in_a, b, in_b, arena, known)
                   : cpu::quantize_pair(x, a, in_a, b, in_b, arena, known);
}

PairMagnitudes pair_magnitudes(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                               const QuantizeContext& in_b, Arena& arena) {
  return on_gpu(x) ? cuda::pair_magnitudes(x, a, in_a, b, in_b, arena)
                   : cpu::pair_magnitudes(x, a, in_a, b, in_b, arena);
}

void raise_magnitudes(const Tensor& x, const PairMagnitudes& magnitudes) {
  require(magnitudes.of_rows.numel() == x.rows() && magnitudes.of_cols.numel() == x.cols(),
          "raise_magnitudes of {} to those of [{}, {}]", to_string(x), magnitudes.of_rows.numel(),
          magnitudes.of_cols.numel());
  on_gpu(x) ? cuda::raise_magnitudes(x, magnitudes) : cpu::raise_magnitudes(x, magnitudes);
}

AmaxPair amax_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                   const QuantizeContext& in_b, Arena& arena) {
  return on_gpu(x) ? cuda::amax_pair(x, a, in_a, b, in_b, arena) : cpu::amax_pair(x, a, in_a, b, in_b, arena);
}

std::int64_t shared_amaxes(const QuantSpec& spec, std::int64_t cols) {
  if (spec.scale == ScaleRule::Nvfp4) return spec.nvfp4.outer == 0 ? 1 : 0;
  const Granularity& g = spec.granularity;
  if (!has_scale(spec.element) || (spec.transposed ? g.cols : g.rows) != 0) return 0;
  const std::int64_t block = spec.transposed ? g.rows : g.cols;
  return block == 0 ? 1 : (cols + block - 1) / block;
}

void shared_amax(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, const Tensor& amax,
                 Arena& scratch) {
  const std::int64_t n = shared_amaxes(spec, x.cols());
  require(n > 0 && amax.dtype() == DType::I32 && amax.numel() == n && !spec.clamp.enabled(),
          "shared_amax of {} into {}: the scales share {} magnitudes", to_string(x), to_string(amax), n);
  QuantSpec unrounded = spec;
  unrounded.rounding = Rounding::NearestEven;
  fill_zero(amax);
  if (x.rows() == 0) return;
  const ArenaScope scope(scratch);
  on_gpu(x) ? cuda::shared_amax(x, unrounded, context, amax, scratch)
            : cpu::shared_amax(x, unrounded, context, amax, scratch);
}

void dequantize(const QTensor& q, const Tensor& out) {
  return on_gpu(out) ? cuda::dequantize(q, out) : cpu::dequantize(q, out);
}

QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch) {
  return on_gpu(x) ? cuda::measure_quality(x, q, spec, context, scratch)
                   : cpu::measure_quality(x, q, spec, context, scratch);
}

void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip) {
  require(dw.dtype() == DType::F32 && dw.rows() == q.rows && dw.cols() == q.cols && w.rows() == q.rows &&
              w.cols() == q.cols,
          "dge_apply to {} with weights {} and a [{}, {}] QTensor", to_string(dw), to_string(w), q.rows, q.cols);
  require(q.element == ElementFormat::E2M1 || q.element_scales.defined(), "dge_apply wants E2M1 elements");
  require(k >= 1, "dge_apply with k = {}; the estimator needs k >= 1", k);
  return on_gpu(dw) ? cuda::dge_apply(dw, w, q, spec, k, clip) : cpu::dge_apply(dw, w, q, spec, k, clip);
}

void hadamard_forward(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  return on_gpu(x) ? cuda::hadamard_forward(x, transform, stream, out)
                   : cpu::hadamard_forward(x, transform, stream, out);
}

void hadamard_inverse(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  return on_gpu(x) ? cuda::hadamard_inverse(x, transform, stream, out)
                   : cpu::hadamard_inverse(x, transform, stream, out);
}

}  // namespace nibble
