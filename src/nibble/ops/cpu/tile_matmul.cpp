#include "nibble/ops/cpu/tile_matmul.h"

#include <algorithm>

// Registers of unknown length cannot stand in an array.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nibble/ops/cpu/tile_matmul.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace nibble {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Lanes = hn::CappedTag<float, kTileColumns>;
using V = hn::Vec<Lanes>;

// A block of C is held in registers: kRows x 2 vectors. Sixteen accumulators cover the latency of a fused
// multiply-add (4 cycles, two units) and need 8 + 2 loads a step for 16 operations; where there are only sixteen
// registers, half as many rows fit.
constexpr int kRows = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM ? 8 : 4;
static_assert(kTileRows % kRows == 0);

enum class Start { Zero, C };

// C [kRows, kVectors * lanes] (+)= sum over k of a(row, k) B [k, .], with a(row, k) at a[row * row_step + k * k_step];
// one of the two steps is 1.
template <int kVectors, bool kTransposed, Start kStart>
HWY_INLINE void block(const float* HWY_RESTRICT a, std::int64_t a_stride, const float* HWY_RESTRICT b,
                      std::int64_t b_stride, float* HWY_RESTRICT c, std::int64_t c_stride, std::int64_t depth) {
  const Lanes d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = kStart == Start::C ? hn::Load(d, c + r * c_stride + v * lanes) : hn::Zero(d);
    }
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    V row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = hn::Load(d, b + k * b_stride + v * lanes);
    for (int r = 0; r < kRows; ++r) {
      const V x = hn::Set(d, kTransposed ? a[k * a_stride + r] : a[r * a_stride + k]);
      for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(x, row[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) hn::Store(sum[r][v], d, c + r * c_stride + v * lanes);
  }
}

// Walks C in panels of two vectors, so that a panel of B stays in the L1 cache while the rows of A stream by.
// columns_from(m) and depth_range(m) say which part of the sum a group of kTileRows rows at m has.
template <bool kTransposed, Start kStart, class ColumnsFrom, class DepthBegin, class DepthEnd>
HWY_INLINE void product(Tile a, Tile b, Tile c, std::int64_t m, std::int64_t n, ColumnsFrom columns_from,
                        DepthBegin depth_begin, DepthEnd depth_end) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(Lanes()));
  for (std::int64_t column = 0; column < n;) {
    const std::int64_t vectors = std::min<std::int64_t>(2, (n - column) / lanes);
    const std::int64_t column_end = column + vectors * lanes;
    for (std::int64_t row = 0; row < m; row += kRows) {
      const std::int64_t group = row / kTileRows * kTileRows;
      if (columns_from(group) >= column_end) continue;
      const std::int64_t k = depth_begin(group);
      const float* a_at = a.data + (kTransposed ? k * a.stride + row : row * a.stride + k);
      const float* b_at = b.data + k * b.stride + column;
      float* c_at = c.data + row * c.stride + column;
      const std::int64_t depth = depth_end(group) - k;
      if (vectors == 2) {
        block<2, kTransposed, kStart>(a_at, a.stride, b_at, b.stride, c_at, c.stride, depth);
      } else {
        block<1, kTransposed, kStart>(a_at, a.stride, b_at, b.stride, c_at, c.stride, depth);
      }
    }
    column = column_end;
  }
}

void matmul(Tile a, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper) {
  product<false, Start::Zero>(
      a, b, c, m, n, [=](std::int64_t row) { return upper ? row : 0; }, [](std::int64_t) { return std::int64_t{0}; },
      [=](std::int64_t) { return k; });
}

void matmul_add(Tile u, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper) {
  product<false, Start::C>(
      u, b, c, m, n, [](std::int64_t) { return std::int64_t{0}; }, [=](std::int64_t row) { return upper ? row : 0; },
      [=](std::int64_t) { return k; });
}

void matmul_add_transposed(Tile u, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper) {
  product<true, Start::C>(
      u, b, c, m, n, [](std::int64_t) { return std::int64_t{0}; }, [](std::int64_t) { return std::int64_t{0}; },
      [=](std::int64_t row) { return upper ? std::min(row + kTileRows, k) : k; });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace nibble
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble {

HWY_EXPORT(matmul);
HWY_EXPORT(matmul_add);
HWY_EXPORT(matmul_add_transposed);

void tile_matmul(Tile a, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper) {
  HWY_DYNAMIC_DISPATCH(matmul)(a, b, c, m, n, k, upper);
}

void tile_matmul_add(Tile u, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper) {
  HWY_DYNAMIC_DISPATCH(matmul_add)(u, b, c, m, n, k, upper);
}

void tile_matmul_add_transposed(Tile u, Tile b, Tile c, std::int64_t m, std::int64_t n, std::int64_t k, bool upper) {
  HWY_DYNAMIC_DISPATCH(matmul_add_transposed)(u, b, c, m, n, k, upper);
}

}  // namespace nibble
#endif  // HWY_ONCE
