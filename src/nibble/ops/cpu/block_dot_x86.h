// Block kernels in x86-64 vector instructions. Call none without the extension it is named after.
#pragma once

#if defined(__x86_64__)
#include "nibble/ops/cpu/block_dot.h"

namespace nibble::cpu {

/// AVX-512 with VNNI: four products and their sum in one instruction, 16 lanes wide.
void block_dot16_avx512_vnni(const BlockTile& tile);
void block_dot32_avx512_vnni(const BlockTile& tile);
/// AVX-VNNI: the same, 8 lanes wide.
void block_dot16_avx_vnni(const BlockTile& tile);
void block_dot32_avx_vnni(const BlockTile& tile);
/// AVX2: products in pairs to int16, which is exact up to kMaxBlockProduct.
void block_dot16_avx2(const BlockTile& tile);
void block_dot32_avx2(const BlockTile& tile);

}  // namespace nibble::cpu
#endif
