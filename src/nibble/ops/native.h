// Products on Blackwell's block-scaled FP4 tensor cores: which operands qualify, and the form that they take there.
//
//   codes   E2M1, [outer, K / 2] bytes, the contraction along the rows, element 2j in the low nibble of byte j
//   scales  UE4M3 for 16 elements of the contraction (NVFP4) or E8M0 for 32 (MXFP4), in tiles of 128 x 4
//           (scale_layout.h)
//
//   C[m, n] = alpha * sum over blocks b of scale_a[m, b] * scale_b[n, b] * sum_{k in b} A[m, k] * B[n, k]
//
// alpha holds the tensor scales of both. The codes of an operand that is stored so are used in place; its scales are
// always brought to their tiles. Both formats: NVIDIA, PTX ISA, mma with .block_scale; OCP MX 1.0 for E8M0.
#pragma once

#include <string>

#include "nibble/ops/gemm.h"
#include "nibble/ops/scale_layout.h"

namespace nibble {

enum class NativeFormat : std::uint8_t { None, Nvfp4, Mxfp4 };

/// "NVFP4", "MXFP4".
const char* native_format_name(NativeFormat format);
/// Elements of the contraction under one scale: 16 or 32.
constexpr std::int64_t native_block(NativeFormat format) { return format == NativeFormat::Nvfp4 ? 16 : 32; }
constexpr std::int64_t native_scale_cols(NativeFormat format, std::int64_t k) {
  return (k + native_block(format) - 1) / native_block(format);
}

/// What an operand is on its own: None unless its elements are E2M1 and its scales UE4M3 or E8M0, not folded, of blocks
/// along the contraction whose length there is a multiple of 16 or 32, smaller than K (of any extent along C, stored
/// either way round), without a second level but the tensor's; K a multiple of 32, codes at a multiple of 16 bytes;
/// where it is stored transposed, its extent along C a multiple of 8.
NativeFormat native_format(const GemmOperand& x);
/// What a product is: the format of both operands where it is one; N a multiple of 16.
NativeFormat native_format(const GemmOperand& a, const GemmOperand& b);

/// The scales of an operand of a format other than None, by rows along C and blocks along the contraction.
StoredScales native_scales(const GemmOperand& x, NativeFormat format);

/// Both on the CPU, for tests and as the definition of what the GPU's kernels write: out has scale_layout_bytes, or
/// [x.matrix.cols, x.matrix.rows / 2] bytes for the transposed codes.
void tile_scales(const StoredScales& scales, std::uint8_t* out);
void transpose_packed_codes(const QTensor& stored, std::uint8_t* out);

}  // namespace nibble
