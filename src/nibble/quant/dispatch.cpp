#include "nibble/quant/backend.h"

namespace nibble {

namespace {

void require_cpu(const Tensor& tensor, const char* what) {
  if (tensor.device() != Device::Cpu) {
    user_error("{} of {}: this build has no CUDA backend; put the tensor on the CPU or build with CUDA", what,
               to_string(tensor));
  }
}

}  // namespace

QTensor quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  require_cpu(x, "quantize");
  return cpu::quantize(x, spec, context, arena);
}

void dequantize(const QTensor& q, const Tensor& out) {
  require_cpu(out, "dequantize");
  cpu::dequantize(q, out);
}

QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch) {
  require_cpu(x, "measure_quality");
  return cpu::measure_quality(x, q, spec, context, scratch);
}

void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip) {
  require_cpu(dw, "dge_apply");
  cpu::dge_apply(dw, w, q, spec, k, clip);
}

}  // namespace nibble
