// The passes over the rows of one job, by where a block's scale comes from.
#pragma once

#include "nibble/quant/cpu/job.h"

namespace nibble::quant_cpu {

/// The amax of each block, or of all of y under an Nvfp4 scale of the tensor, at `amax`, which holds zeros.
void find_shared_amax(const Job& job, AmaxBits* amax);

/// Elements without a scale.
void encode_unscaled(const Job& job);

/// The 16-bit way, for BF16 rows as they stand, a scale a row and round to nearest.
bool fits_bf16_rows(const Job& job);
void encode_bf16_rows(const Job& job);

/// BF16 rows as they stand under scales of 1 x 16 or 1 x 32 blocks, ties to even.
bool fits_bf16_blocks(const Job& job);
void encode_bf16_blocks(Job& job);

/// Blocks of up to kTallestBand rows: one band of blocks after the other, its rows in cache; one pass over x, and where
/// a scale of the tensor is above those of the blocks a pass for it before.
void encode_bands(Job& job);

/// Taller blocks: the statistics of all blocks first, then the codes.
void encode_tall(Job& job, Arena& arena);

}  // namespace nibble::quant_cpu
