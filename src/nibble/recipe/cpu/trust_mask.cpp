#include "nibble/recipe/trust_mask.h"

#include "nibble/recipe/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {

namespace {

// A bit becomes a word of ones or zeros that keeps or clears the element's bits.
NIBBLE_SIMD void mask_row(float* gradient, const std::uint8_t* mask, std::int64_t n) {
  for (std::int64_t c = 0; c < n; ++c) {
    const std::uint32_t keep = 0u - ((static_cast<std::uint32_t>(mask[c >> 3]) >> (c & 7)) & 1u);
    gradient[c] = bits_float(float_bits(gradient[c]) & keep);
  }
}
NIBBLE_SIMD void mask_row(bf16* gradient, const std::uint8_t* mask, std::int64_t n) {
  for (std::int64_t c = 0; c < n; ++c) {
    const std::uint32_t keep = 0u - ((static_cast<std::uint32_t>(mask[c >> 3]) >> (c & 7)) & 1u);
    gradient[c].bits = static_cast<std::uint16_t>(gradient[c].bits & keep);
  }
}

}  // namespace

void apply_trust_mask(const Tensor& gradient, const Tensor& mask) {
  const std::int64_t cols = gradient.cols();
  const std::int64_t stride = (cols + 7) / 8;
  require(mask.rows() == gradient.rows() && mask.cols() == stride, "apply_trust_mask: mask {} for {}", to_string(mask),
          to_string(gradient));
  const std::uint8_t* bits = mask.data<std::uint8_t>();
  dispatch_float(gradient.dtype(), [&]<class T>(T*) {
    T* g = gradient.data<T>();
    parallel_for(gradient.rows(), rows_per_chunk(cols * static_cast<std::int64_t>(sizeof(T))),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t r = begin; r < end; ++r) mask_row(g + r * cols, bits + r * stride, cols);
                 });
  });
}

void masked_hadamard_inverse(const Tensor& gradient, const Tensor& mask, const Hadamard& transform,
                             const RandomStream& stream, const Tensor& out) {
  if (mask.defined()) cpu::apply_trust_mask(gradient, mask);
  hadamard_inverse(gradient, transform, stream, out);
}

}  // namespace nibble::cpu
