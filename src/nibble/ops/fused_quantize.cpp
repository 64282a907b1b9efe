#include "nibble/ops/fused_quantize.h"

#include "nibble/ops/cuda/fused_quantize.h"
#include "nibble/ops/rmsnorm.h"
#include "nibble/ops/swiglu.h"
#include "nibble/quant/clamped_layout.h"

namespace nibble {

namespace {

/// Whether packs of it may be read.
bool fits(const Tensor& x, DType dtype) {
  return x.dtype() == dtype && reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0;
}

bool one_pass(const Tensor& from, DType dtype, std::int64_t cols, const QuantSpec& spec,
              const QuantizeContext& context) {
  return fits(from, dtype) && from.rows() > 0 && !context.row_fold.defined() && !context.col_fold.defined() &&
         fuses_quantize(spec, cols, from.device());
}

}  // namespace

bool fuses_quantize(const QuantSpec& spec, std::int64_t cols, Device device) {
  return device == Device::Cuda && !spec.transposed && spec.carrier == ElementFormat::BF16 &&
         spec.clamp.residual != ResidualMode::Dense &&
         quant_cuda::clamps_in_one_pass(spec, cols, quant_cuda::kPiecesOfMade);
}

QTensor rmsnorm_quantize(const Tensor& x, const Tensor& gain, float eps, const Tensor& rstd, const QuantSpec& spec,
                         const QuantizeContext& context, Arena& arena, Arena& scratch) {
  require(gain.numel() == x.cols() && rstd.numel() == x.rows(), "rmsnorm_quantize: x {}, gain {}, rstd {}",
          to_string(x), to_string(gain), to_string(rstd));
  if (fits(gain, DType::F32) && one_pass(x, DType::F32, x.cols(), spec, context)) {
    return cuda::rmsnorm_quantize(x, gain, eps, rstd, spec, context, arena);
  }
  const Tensor y = scratch.allocate(DType::BF16, {x.rows(), x.cols()});
  rmsnorm_forward(x, gain, eps, y, rstd);
  return quantize(y, spec, context, arena);
}

QTensor swiglu_quantize(const Tensor& gate_up, const QuantSpec& spec, const QuantizeContext& context, Arena& arena,
                        Arena& scratch) {
  const std::int64_t f = gate_up.cols() / 2;
  require(gate_up.cols() % 2 == 0, "swiglu_quantize: gate_up {}", to_string(gate_up));
  if (one_pass(gate_up, DType::BF16, f, spec, context)) return cuda::swiglu_quantize(gate_up, spec, context, arena);
  const Tensor y = scratch.allocate(DType::BF16, {gate_up.rows(), f});
  swiglu_forward(gate_up, y);
  return quantize(y, spec, context, arena);
}

}  // namespace nibble
