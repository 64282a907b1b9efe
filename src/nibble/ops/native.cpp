#include "nibble/ops/native.h"

#include <cstring>

#include "nibble/ops/code_transpose.h"
#include "nibble/ops/operand_scales.h"

namespace nibble {

const char* native_format_name(NativeFormat format) {
  switch (format) {
    case NativeFormat::None: break;
    case NativeFormat::Nvfp4: return "NVFP4";
    case NativeFormat::Mxfp4: return "MXFP4";
  }
  return "none";
}

NativeFormat native_format(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  const std::int64_t k = inner_extent(x);
  if (q.element != ElementFormat::E2M1 || !block_scales_are_inner(x) || q.outer_scales.defined())
    return NativeFormat::None;
  if (q.scale_format != ScaleFormat::UE4M3 && q.scale_format != ScaleFormat::E8M0) return NativeFormat::None;
  const NativeFormat format = q.scale_format == ScaleFormat::UE4M3 ? NativeFormat::Nvfp4 : NativeFormat::Mxfp4;
  const std::int64_t along = x.transposed ? q.block_rows() : q.block_cols();
  const bool fits = outer_extent(x) > 0 && k > 0 && k % 32 == 0 && along % native_block(format) == 0 &&
                    reinterpret_cast<std::uintptr_t>(q.codes.raw()) % 16 == 0 &&
                    (!x.transposed || outer_extent(x) % 8 == 0);
  return fits ? format : NativeFormat::None;
}

NativeFormat native_format(const GemmOperand& a, const GemmOperand& b) {
  const NativeFormat format = native_format(a);
  return native_format(b) == format && outer_extent(b) % 16 == 0 ? format : NativeFormat::None;
}

StoredScales native_scales(const GemmOperand& x, NativeFormat format) {
  const QTensor& q = x.matrix;
  StoredScales s;
  s.bytes = q.scales.data<std::uint8_t>();
  s.rows = outer_extent(x);
  s.cols = native_scale_cols(format, inner_extent(x));
  s.rows_per_scale = x.transposed ? q.block_cols() : q.block_rows();
  s.cols_per_scale = (x.transposed ? q.block_rows() : q.block_cols()) / native_block(format);
  s.row_stride = x.transposed ? 1 : q.scale_cols();
  s.col_stride = x.transposed ? q.scale_cols() : 1;
  return s;
}

void tile_scales(const StoredScales& scales, std::uint8_t* out) {
  const std::int64_t words = scale_layout_bytes(scales.rows, scales.cols) / 4;
  for (std::int64_t w = 0; w < words; ++w) {
    const std::uint32_t word = tiled_scale_word(scales, w);
    for (int i = 0; i < 4; ++i) out[4 * w + i] = static_cast<std::uint8_t>(word >> (8 * i));
  }
}

void transpose_packed_codes(const QTensor& stored, std::uint8_t* out) {
  require(stored.rows % 8 == 0 && stored.cols % 8 == 0, "transposing packed codes of {} x {}", stored.rows,
          stored.cols);
  const auto* codes = stored.codes.data<std::uint8_t>();
  const std::int64_t out_bytes = stored.rows / 2;
  for (std::int64_t r = 0; r < stored.rows; r += 8) {
    for (std::int64_t c = 0; c < stored.cols; c += 8) {
      std::uint32_t square[8];
      for (int i = 0; i < 8; ++i) std::memcpy(&square[i], codes + (r + i) * stored.code_row_bytes() + c / 2, 4);
      transpose_codes(square);
      for (int i = 0; i < 8; ++i) std::memcpy(out + (c + i) * out_bytes + r / 2, &square[i], 4);
    }
  }
}

}  // namespace nibble
