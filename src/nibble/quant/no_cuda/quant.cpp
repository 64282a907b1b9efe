// What a build without CUDA answers.
#include "nibble/quant/backend.h"

namespace nibble::cuda {

namespace {

[[noreturn]] void refuse(const char* what) {
  user_error("{} on a GPU: this build has no CUDA backend; build with a CUDA toolkit (-DNIBBLE_CUDA=on)", what);
}

}  // namespace

QTensor quantize(const Tensor&, const QuantSpec&, const QuantizeContext&, Arena&) { refuse("quantize"); }
void dequantize(const QTensor&, const Tensor&) { refuse("dequantize"); }
QuantQuality measure_quality(const Tensor&, const QTensor&, const QuantSpec&, const QuantizeContext&, Arena&) {
  refuse("measure_quality");
}
void dge_apply(const Tensor&, const Tensor&, const QTensor&, const QuantSpec&, float, float) { refuse("dge_apply"); }
void hadamard_forward(const Tensor&, const Hadamard&, const RandomStream&, const Tensor&) {
  refuse("hadamard_forward");
}
void hadamard_inverse(const Tensor&, const Hadamard&, const RandomStream&, const Tensor&) {
  refuse("hadamard_inverse");
}

}  // namespace nibble::cuda
