// Packs the right operand of a block-scaled product into the layout of ops/cpu/block_dot.h.
#pragma once

#include "nibble/ops/cpu/gemm_decode.h"

namespace nibble::cpu {

/// Columns that are packed together: one cache line of the codes of a transposed operand.
inline constexpr std::int64_t kPackColumns = 128;

/// Bytes of one panel of 32 columns, for a contraction of k.
std::int64_t packed_panel_bytes(std::int64_t k, std::int64_t length);
/// Bytes of scratch that pack_blocks needs.
std::int64_t pack_scratch_bytes(std::int64_t k, std::int64_t length);

/// Columns [n, n + width) of C, width <= kPackColumns, as ceil(width / 32) consecutive panels: all blocks of `length`
/// of the contraction, the last one and the last lanes filled up with zeros. `offset` is what A's integers have been
/// raised by. `packed` and `scratch` are aligned to 64 bytes.
void pack_blocks(const GemmOperand& b, std::int64_t n, std::int64_t width, std::int64_t length, int offset,
                 std::uint8_t* packed, std::uint8_t* scratch);

}  // namespace nibble::cpu
