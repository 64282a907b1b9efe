// What a build without CUDA answers.
#include "nibble/quant/backend.h"
#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

QTensor quantize(const Tensor&, const QuantSpec&, const QuantizeContext&, Arena&) { refuse_on_gpu("quantize"); }
QuantizedPair quantize_pair(const Tensor&, const QuantSpec&, const QuantizeContext&, const QuantSpec&,
                            const QuantizeContext&, Arena&, const PairMagnitudes&) {
  refuse_on_gpu("quantize_pair");
}
PairMagnitudes pair_magnitudes(const Tensor&, const QuantSpec&, const QuantizeContext&, const QuantSpec&,
                               const QuantizeContext&, Arena&) {
  refuse_on_gpu("pair_magnitudes");
}
void raise_magnitudes(const Tensor&, const PairMagnitudes&) { refuse_on_gpu("raise_magnitudes"); }
AmaxPair amax_pair(const Tensor&, const QuantSpec&, const QuantizeContext&, const QuantSpec&, const QuantizeContext&,
                   Arena&) {
  refuse_on_gpu("amax_pair");
}
QTensor requantize_codes(const QTensor&, const QuantSpec&, const QuantizeContext&, Arena&) {
  refuse_on_gpu("requantize");
}
void shared_amax(const Tensor&, const QuantSpec&, const QuantizeContext&, const Tensor&, Arena&) {
  refuse_on_gpu("shared_amax");
}
void dequantize(const QTensor&, const Tensor&) { refuse_on_gpu("dequantize"); }
QuantQuality measure_quality(const Tensor&, const QTensor&, const QuantSpec&, const QuantizeContext&, Arena&) {
  refuse_on_gpu("measure_quality");
}
void dge_apply(const Tensor&, const Tensor&, const QTensor&, const QuantSpec&, float, float) {
  refuse_on_gpu("dge_apply");
}
void hadamard_forward(const Tensor&, const Hadamard&, const RandomStream&, const Tensor&) {
  refuse_on_gpu("hadamard_forward");
}
void hadamard_inverse(const Tensor&, const Hadamard&, const RandomStream&, const Tensor&) {
  refuse_on_gpu("hadamard_inverse");
}

}  // namespace nibble::cuda
