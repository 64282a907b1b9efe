// Two operands of one tensor: on the CPU two calls, each of which reads x once or in its cache.
#include "nibble/quant/backend.h"

namespace nibble {

QuantizedPair cpu::quantize_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                                 const QuantizeContext& in_b, Arena& arena, const PairMagnitudes&) {
  const QTensor first = cpu::quantize(x, a, in_a, arena);
  return {first, cpu::quantize(x, b, in_b, arena)};
}

PairMagnitudes cpu::pair_magnitudes(const Tensor&, const QuantSpec&, const QuantizeContext&, const QuantSpec&,
                                    const QuantizeContext&, Arena&) {
  return {};
}

void cpu::raise_magnitudes(const Tensor& x, const PairMagnitudes&) {
  throw InternalError(fmt::format("raise_magnitudes of {}: the CPU's quantize_pair takes none", to_string(x)));
}

AmaxPair cpu::amax_pair(const Tensor&, const QuantSpec&, const QuantizeContext&, const QuantSpec&,
                        const QuantizeContext&, Arena&) {
  return {};
}

}  // namespace nibble
