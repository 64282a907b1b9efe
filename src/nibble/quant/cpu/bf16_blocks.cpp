#include "nibble/quant/cpu/bf16_blocks.h"

#include <algorithm>

#include "nibble/quant/cpu/small_float_code.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

/// Two elements, the first in the low half (little-endian), wherever they stand.
using Pair [[gnu::may_alias, gnu::aligned(2)]] = std::uint32_t;

NIBBLE_INLINE std::uint32_t pair_code(std::uint32_t pair, float m) {
  const std::uint32_t low = e2m1_code_even(bits_float(pair << 16) * m);
  const std::uint32_t high = e2m1_code_even(bits_float(pair & 0xFFFF'0000u) * m);
  return low | high << 4;
}

/// A multiplier for each pair: one long loop, which compilers vectorise better than many short ones.
NIBBLE_SIMD void encode_pairs(const Pair* __restrict pairs, const float* __restrict multiplier, std::int64_t n,
                              std::uint8_t* __restrict packed) {
  for (std::int64_t i = 0; i < n; ++i) packed[i] = static_cast<std::uint8_t>(pair_code(pairs[i], multiplier[i]));
}

template <int kBlock>
NIBBLE_INLINE void amax_fixed_blocks(const std::uint16_t* __restrict x, std::int64_t blocks,
                                     AmaxBits* __restrict amax) {
  for (std::int64_t j = 0; j < blocks; ++j) {
    std::int16_t m = 0;
    for (int i = 0; i < kBlock; ++i) m = std::max(m, static_cast<std::int16_t>(x[j * kBlock + i] & 0x7FFF));
    amax[j] = std::max(amax[j], static_cast<AmaxBits>(m) << 16);
  }
}
NIBBLE_SIMD void amax_of_blocks_of_16(const std::uint16_t* x, std::int64_t blocks, AmaxBits* amax) {
  amax_fixed_blocks<16>(x, blocks, amax);
}
NIBBLE_SIMD void amax_of_blocks_of_32(const std::uint16_t* x, std::int64_t blocks, AmaxBits* amax) {
  amax_fixed_blocks<32>(x, blocks, amax);
}

}  // namespace

void amax_of_bf16_blocks(const std::uint16_t* x, std::int64_t n, std::int64_t block, AmaxBits* amax) {
  const std::int64_t whole = n / block;
  if (block == 16) {
    amax_of_blocks_of_16(x, whole, amax);
  } else {
    require(block == 32, "blocks of 16 or 32 columns, not {}", block);
    amax_of_blocks_of_32(x, whole, amax);
  }
  if (whole * block < n) amax[whole] = std::max(amax[whole], amax_of_bf16(x + whole * block, n - whole * block));
}

void encode_e2m1_blocks(const std::uint16_t* x, const float* multiplier, std::int64_t block, std::int64_t n,
                        std::uint8_t* packed) {
  constexpr std::int64_t kChunk = 1024;  // pairs, whole blocks of both sizes
  float expanded[kChunk];
  const Pair* pairs = reinterpret_cast<const Pair*>(x);
  for (std::int64_t i = 0; i < n / 2; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n / 2 - i);
    expand_blocks(multiplier + 2 * i / block, block / 2, count, expanded);
    encode_pairs(pairs + i, expanded, count, packed + i);
  }
  if (n % 2 != 0) packed[n / 2] = static_cast<std::uint8_t>(pair_code(x[n - 1], multiplier[n / block]) & 15u);
}

}  // namespace nibble::quant_cpu
