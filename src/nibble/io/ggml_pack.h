// Four-bit codes and their scales in ggml's blocks (io/ggml_blocks.h has the layouts). Codes are E2M1, column 2 j in
// the low nibble of byte j as in quant/qtensor.h, so nothing is rounded here: packing is a permutation of nibbles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "nibble/io/ggml_type.h"

namespace nibble {

/// Whole rows one after the other: `codes` has a byte for two elements, `scales` a byte for 32 (MXFP4, E8M0) or 16
/// (NVFP4, E4M3 without sign), `blocks` ggml's blocks of as many elements. The tensor scale of NVFP4 has no place in a
/// block. InternalError for another type or lengths that do not fit.
void pack_ggml_fp4(GgmlType type, std::span<const std::uint8_t> codes, std::span<const std::uint8_t> scales,
                   std::span<std::byte> blocks);

}  // namespace nibble
