#include "nibble/ops/cpu/block_pack.h"

#include <algorithm>
#include <cstring>

#include "nibble/ops/cpu/block_dot.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/simd.h"
#include "nibble/tensor/transpose_block.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kLanes = kBlockLanes;
/// A group of four elements of the contraction for all lanes of a panel.
constexpr std::int64_t kGroupBytes = 4 * kLanes;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// out[4 n + j] = rows[j * stride + n]
NIBBLE_SIMD void interleave_four(const std::int8_t* rows, std::int64_t stride, std::int8_t* out) {
  const std::int8_t* second = rows + stride;
  const std::int8_t* third = second + stride;
  const std::int8_t* fourth = third + stride;
  for (std::int64_t n = 0; n < kLanes; ++n) {
    out[4 * n] = rows[n];
    out[4 * n + 1] = second[n];
    out[4 * n + 2] = third[n];
    out[4 * n + 3] = fourth[n];
  }
}

/// sums[n] = factor * sum of the block's integers of lane n
NIBBLE_SIMD void sum_block(const std::int8_t* codes, std::int64_t groups, int factor, std::int32_t* sums) {
  std::int16_t parts[kGroupBytes] = {};
  for (std::int64_t g = 0; g < groups; ++g, codes += kGroupBytes) {
    for (std::int64_t i = 0; i < kGroupBytes; ++i) parts[i] = static_cast<std::int16_t>(parts[i] + codes[i]);
  }
  for (std::int64_t n = 0; n < kLanes; ++n) {
    sums[n] = factor * (parts[4 * n] + parts[4 * n + 1] + parts[4 * n + 2] + parts[4 * n + 3]);
  }
}

struct Panels {
  const GemmOperand& b;
  std::int64_t n, width, k, length, blocks;

  Panels(const GemmOperand& operand, std::int64_t n_, std::int64_t width_, std::int64_t length_)
      : b(operand), n(n_), width(width_), k(inner_extent(operand)), length(length_), blocks(ceil_div(k, length_)) {}
  std::int64_t panel_bytes() const { return blocks * block_bytes(length); }
  std::int64_t lanes(std::int64_t panel) const { return std::min(kLanes, width - panel * kLanes); }
};

/// Stored [n, k]: rows of codes are decoded, then transposed four elements at a time.
void pack_rows(const Panels& p, std::uint8_t* packed, std::uint8_t* scratch) {
  const std::int64_t stride = p.blocks * p.length;
  auto* codes = reinterpret_cast<std::int8_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(scratch + kLanes * stride);
  const std::int64_t groups = p.length / 4;
  for (std::int64_t panel = 0; panel * kLanes < p.width; ++panel, packed += p.panel_bytes()) {
    const std::int64_t first = p.n + panel * kLanes;
    const std::int64_t lanes = p.lanes(panel);
    if (lanes < kLanes || p.k < stride) {
      std::memset(scratch, 0, static_cast<std::size_t>(kLanes * stride) + kLanes * sizeof(float) * p.blocks);
    }
    decode_outer<std::int8_t>(p.b, first, first + lanes, codes, stride, nullptr);
    fill_block_scales(p.b, first, first + lanes, p.length, scales, p.blocks);
    const auto* words = reinterpret_cast<const std::uint32_t*>(codes);
    for (std::int64_t block = 0; block < p.blocks; ++block) {
      auto* to = reinterpret_cast<std::uint32_t*>(packed + block * block_bytes(p.length));
      transpose_block(words + block * groups, stride / 4, to, kLanes, kLanes, groups);
    }
    auto* to = reinterpret_cast<float*>(packed + block_scales_at(p.length));
    transpose_block(scales, p.blocks, to, block_bytes(p.length) / 4, kLanes, p.blocks);
  }
}

/// Stored [k, n]: rows of codes are decoded block by block, and four of them interleaved.
void pack_transposed(const Panels& p, std::uint8_t* packed, std::uint8_t* scratch) {
  auto* codes = reinterpret_cast<std::int8_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(scratch + kPackColumns * p.length);
  std::memset(scratch, 0, static_cast<std::size_t>(kPackColumns) * (p.length + sizeof(float)));
  for (std::int64_t block = 0; block < p.blocks; ++block, packed += block_bytes(p.length)) {
    const std::int64_t k = block * p.length;
    const std::int64_t rows = std::min(p.length, p.k - k);
    if (rows < p.length) std::memset(scratch, 0, static_cast<std::size_t>(kPackColumns * p.length));
    decode_stored(p.b, k, k + rows, p.n, p.n + p.width, codes, kPackColumns);
    expand_scales(p.b, k, p.n, p.width, scales);
    std::uint8_t* to = packed;
    for (std::int64_t n = 0; n < p.width; n += kLanes, to += p.panel_bytes()) {
      for (std::int64_t g = 0; g < p.length / 4; ++g) {
        interleave_four(codes + 4 * g * kPackColumns + n, kPackColumns,
                        reinterpret_cast<std::int8_t*>(to + g * kGroupBytes));
      }
      std::memcpy(to + block_scales_at(p.length), scales + n, kLanes * sizeof(float));
    }
  }
}

}  // namespace

std::int64_t packed_panel_bytes(std::int64_t k, std::int64_t length) {
  return ceil_div(k, length) * block_bytes(length);
}

std::int64_t pack_scratch_bytes(std::int64_t k, std::int64_t length) {
  const std::int64_t blocks = ceil_div(k, length);
  const auto scale = static_cast<std::int64_t>(sizeof(float));
  return std::max(kLanes * blocks * (length + scale), kPackColumns * (length + scale));
}

void pack_blocks(const GemmOperand& b, std::int64_t n, std::int64_t width, std::int64_t length, int offset,
                 std::uint8_t* packed, std::uint8_t* scratch) {
  const Panels panels(b, n, width, length);
  b.transposed ? pack_transposed(panels, packed, scratch) : pack_rows(panels, packed, scratch);
  const std::int64_t blocks = ceil_div(width, kLanes) * panels.blocks;
  for (std::int64_t i = 0; i < blocks; ++i, packed += block_bytes(length)) {
    sum_block(reinterpret_cast<const std::int8_t*>(packed), length / 4, -offset,
              reinterpret_cast<std::int32_t*>(packed + block_compensation_at(length)));
  }
}

}  // namespace nibble::cpu
