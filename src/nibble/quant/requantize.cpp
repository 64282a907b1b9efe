#include "nibble/quant/requantize.h"

#include <bit>

#include "nibble/quant/backend.h"

namespace nibble {

Tensor stored_values(const QTensor& q, Arena& arena) {
  const Tensor values = arena.allocate(DType::F32, {q.rows, q.cols});
  QTensor bare = q;
  bare.residual = {};
  dequantize(bare, values);
  return values;
}

QTensor requantize(const QTensor& q, const QuantSpec& spec, const QuantizeContext& context, Arena& arena,
                   Arena& scratch) {
  const Device device = q.codes.device();
  if (requantizes_codes(q, spec, device)) return cuda::requantize_codes(q, spec, context, arena);
  return quantize(stored_values(q, scratch), spec, context, arena);
}

// What the kernels of quant/cuda/requantize.cu rely on.
bool requantizes_codes(const QTensor& q, const QuantSpec& spec, Device device) {
  const auto sixteens = [&](std::int64_t columns) { return columns % 16 == 0 || columns >= q.cols; };
  const auto fits = [](std::int64_t columns) {
    return columns >= 16 && columns <= 128 && std::has_single_bit(static_cast<std::uint64_t>(columns));
  };
  const bool source = q.element == ElementFormat::E2M1 && sixteens(q.block_cols()) && sixteens(q.outer);
  const bool blocks = has_scale(spec.element) && spec.carrier == ElementFormat::BF16 && spec.granularity.rows == 1 &&
                      fits(spec.granularity.cols) &&
                      (spec.scale != ScaleRule::Nvfp4 || spec.nvfp4.outer == 0 || fits(spec.nvfp4.outer)) &&
                      (spec.rounding != Rounding::Eden || fits(spec.eden_group));
  return device == Device::Cuda && source && blocks && spec.transposed && !spec.clamp.enabled() && !spec.bf16_input &&
         spec.hadamard.group <= 128;
}

}  // namespace nibble
