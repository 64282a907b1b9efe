// The bounds of a row of BF16 that a thread block holds in registers, exactly, at few instructions an element.
//
// Every thread has two groups of elements, those in the lower and those in the upper halves of its words. If k groups
// have an element from t up, the k-th largest of the row is one of the elements from t up, and for data without much
// order there are few more of them than k. So:
//
//   1. each warp looks for a t that its share of k of its groups reach with their largest element; the least t of the
//      warps holds for the row. The same for the smallest;
//   2. what lies from t up, and from the other t down, is listed in shared memory, some per cent of the row;
//   3. one warp a bound bisects among what is listed.
//
// Rows with values that are not finite, or with so many equal ones that the list overflows, are left to a radix
// selection by the caller (select_slowly).
#pragma once

#include <cuda_bf16.h>

#include "nibble/quant/clamped_layout.h"
#include "nibble/quant/cuda/select.cuh"

namespace nibble::quant_cuda {

constexpr int kMostListed = 1024;
constexpr int kByteBins = 256 + 256 / 32;

/// BF16 bits as unsigned numbers of the same order: the upper halves of unsigned_key.
__host__ __device__ __forceinline__ std::uint32_t bf16_key(std::uint32_t bits) {
  return bits ^ ((bits & 0x8000u) != 0 ? 0xFFFFu : 0x8000u);
}
__host__ __device__ __forceinline__ std::uint32_t bf16_of_key(std::uint32_t key) {
  return key ^ ((key & 0x8000u) != 0 ? 0x8000u : 0xFFFFu);
}

/// A row as it lies in the registers of a block: piece k of thread t at column 8 (t + k blockDim.x). Every thread has
/// its first piece.
template <int kPieces>
struct RowInRegisters {
  std::uint32_t words[4 * kPieces];
  int mine = 0;  ///< pieces the thread has

  static __device__ __forceinline__ std::uint32_t column(int k) {
    return 8 * (threadIdx.x + static_cast<unsigned>(k) * blockDim.x);
  }
  __device__ __forceinline__ bool has(int k) const { return k < mine; }
  /// `piece(k, c)`: the eight elements of piece k, which begins at column c; called for every piece within the row.
  template <class Piece>
  __device__ __forceinline__ RowInRegisters(std::uint32_t cols, Piece piece) {
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      uint4 eight = {0, 0, 0, 0};
      if (column(k) < cols) {
        eight = piece(k, column(k));
        mine = k + 1;
      }
      words[4 * k] = eight.x, words[4 * k + 1] = eight.y, words[4 * k + 2] = eight.z, words[4 * k + 3] = eight.w;
    }
  }
};

/// The two bounds are looked for alike: the k-th smallest is the k-th largest of keys counted from above.
enum Side : int { kHigh = 0, kLow = 1 };
__host__ __device__ __forceinline__ std::uint32_t key_from(int side, std::uint32_t key) {
  return side == kHigh ? key : 0xFFFFu - key;
}

/// Shared memory of a search.
struct SelectRoom {
  /// Columns first, then key << 16 | column; or the two histograms of select_slowly.
  std::uint32_t list[kMostListed];
  std::uint32_t listed;
  std::uint32_t threshold[2][kMostWarps];  ///< a key from that side, from each warp
  std::uint32_t most[2][kMostWarps];       ///< the largest such key
  std::uint32_t found[2];                  ///< the bounds' keys
  Quantiles quantiles;
};
static_assert(2 * kByteBins <= kMostListed);

/// A largest and a smallest element of each half's group; the sign bit makes a negative number the smallest integer and
/// the largest unsigned one. In a group of one sign one of the two is another element of the group, which serves as
/// well. NaN and infinities show.
struct Extremes {
  std::uint32_t high;
  std::uint32_t low;
  template <int kPieces>
  __device__ __forceinline__ explicit Extremes(const RowInRegisters<kPieces>& y) : high(y.words[0]), low(y.words[0]) {
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      if (!y.has(k)) continue;
      const std::uint32_t* w = y.words + 4 * k;
      high = __vimax3_s16x2(__vimax3_s16x2(high, w[0], w[1]), w[2], w[3]);
      low = __vimax3_u16x2(__vimax3_u16x2(low, w[0], w[1]), w[2], w[3]);
    }
  }
  __device__ __forceinline__ bool finite() const {
    const auto is_finite = [](std::uint32_t bits) { return (bits & 0x7F80u) != 0x7F80u; };
    return is_finite(high) && is_finite(high >> 16) && is_finite(low) && is_finite(low >> 16);
  }
};

/// By each warp: a key that `want` of the groups reach, and few more; and the largest key of a group. Both sides are
/// searched at once, as each step waits for the one before.
__device__ __forceinline__ void find_thresholds(const Extremes& extremes, const std::uint32_t (&want)[2],
                                                SelectRoom& room) {
  constexpr unsigned kAll = 0xFFFF'FFFFu;
  std::uint32_t key[2][2];
  std::uint32_t reached[2];
  std::uint32_t missed[2];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const std::uint32_t pair = side == kHigh ? extremes.high : extremes.low;
    key[side][0] = key_from(side, bf16_key(pair & 0xFFFFu));
    key[side][1] = key_from(side, bf16_key(pair >> 16));
    reached[side] = __reduce_min_sync(kAll, min(key[side][0], key[side][1]));
    missed[side] = __reduce_max_sync(kAll, max(key[side][0], key[side][1])) + 1;
    if (threadIdx.x % 32 == 0) room.most[side][threadIdx.x / 32] = missed[side] - 1;
  }
  while (missed[kHigh] - reached[kHigh] > 1 || missed[kLow] - reached[kLow] > 1) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const std::uint32_t middle = (reached[side] + missed[side]) / 2;
      const auto groups = static_cast<std::uint32_t>(__popc(__ballot_sync(kAll, key[side][0] >= middle)) +
                                                     __popc(__ballot_sync(kAll, key[side][1] >= middle)));
      if (groups >= want[side]) {
        reached[side] = middle;
        if (groups <= want[side] + want[side] / 8) missed[side] = middle + 1;  // near enough
      } else {
        missed[side] = middle;
      }
    }
  }
  if (threadIdx.x % 32 != 0) return;
#pragma unroll
  for (int side = 0; side < 2; ++side) room.threshold[side][threadIdx.x / 32] = reached[side];
}

/// The least of what the warps have found.
__device__ __forceinline__ std::uint32_t least_threshold(const SelectRoom& room, int side) {
  const std::uint32_t lane = threadIdx.x % 32;
  return __reduce_min_sync(0xFFFF'FFFFu, room.threshold[side][lane < blockDim.x / 32 ? lane : 0]);
}
/// The number that the row's bounds lie at or beyond, twice in a word.
__device__ __forceinline__ __nv_bfloat162 threshold_of(const SelectRoom& room, int side) {
  const std::uint32_t pair = bf16_of_key(key_from(side, least_threshold(room, side))) * 0x0001'0001u;
  return *reinterpret_cast<const __nv_bfloat162*>(&pair);
}

/// Lists the columns of what lies beyond the thresholds; `listed` counts those that found no room, too. Zeros compare
/// as equal, which may list one more than the order of keys asks for, never one less.
template <int kPieces>
__device__ __forceinline__ void list_candidates(const RowInRegisters<kPieces>& y, SelectRoom& room) {
  constexpr int kMasks = (kPieces + 3) / 4;
  const __nv_bfloat162 high = threshold_of(room, kHigh);
  const __nv_bfloat162 low = threshold_of(room, kLow);
  // Bit i of mask m: the lower half of word 16 m + i; bit 16 + i: its upper half.
  std::uint32_t mask[kMasks] = {};
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    if (!y.has(k)) continue;
#pragma unroll
    for (int i = 4 * k; i < 4 * k + 4; ++i) {
      const auto pair = *reinterpret_cast<const __nv_bfloat162*>(&y.words[i]);
      mask[k / 4] |= (__hge2_mask(pair, high) | __hle2_mask(pair, low)) & (0x0001'0001u << (i % 16));
    }
  }
  std::uint32_t count = 0;
#pragma unroll
  for (int m = 0; m < kMasks; ++m) count += static_cast<std::uint32_t>(__popc(mask[m]));
  const std::uint32_t upto = inclusive_scan(count);
  std::uint32_t at = 0;
  if (threadIdx.x % 32 == 31) at = atomicAdd(&room.listed, upto);
  at = __shfl_sync(0xFFFF'FFFFu, at, 31) + upto - count;
#pragma unroll
  for (int m = 0; m < kMasks; ++m) {
#pragma unroll 1
    while (mask[m] != 0 && at < kMostListed) {
      const auto bit = static_cast<std::uint32_t>(__ffs(static_cast<int>(mask[m]))) - 1;
      mask[m] &= mask[m] - 1;
      const std::uint32_t piece = static_cast<unsigned>(4 * m) + (bit & 15u) / 4;
      room.list[at++] = 8 * (threadIdx.x + piece * blockDim.x) + 2 * (bit & 3u) + (bit >> 4);
    }
  }
}

/// By one warp: the k-th largest key from that side among what is listed. Most rows' lists fit a warp's registers, so
/// that a step waits for its reduction alone.
__device__ __forceinline__ void find_among_listed(int side, std::uint32_t k, SelectRoom& room) {
  constexpr std::uint32_t kKept = 4;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t listed = room.listed;
  std::uint32_t kept[kKept];
#pragma unroll
  for (std::uint32_t i = 0; i < kKept; ++i) {
    const std::uint32_t at = 32 * i + lane;
    kept[i] = at < listed ? key_from(side, room.list[at] >> 16) : 0;  // no limit is as low
  }
  std::uint32_t reached = least_threshold(room, side);
  // Where the row lies beyond zero, all of it, the groups' keys need not be the largest.
  const std::uint32_t most = room.most[side][lane < blockDim.x / 32 ? lane : 0];
  std::uint32_t missed = max(__reduce_max_sync(0xFFFF'FFFFu, most) + 1, 0x8000u);
  std::uint32_t step = 8;  // the threshold is a few places off, mostly: first by growing steps
#pragma unroll 1
  while (missed - reached > 1) {
    const std::uint32_t middle = reached + min(step, (missed - reached) / 2);
    std::uint32_t count = 0;
#pragma unroll
    for (const std::uint32_t key : kept) count += key >= middle ? 1 : 0;
#pragma unroll 1
    for (std::uint32_t i = 32 * kKept + lane; i < listed; i += 32) {
      count += key_from(side, room.list[i] >> 16) >= middle ? 1 : 0;
    }
    if (__reduce_add_sync(0xFFFF'FFFFu, count) >= k) {
      reached = middle;
      step = min(4 * step, 0x1'0000u);
    } else {
      missed = middle;
    }
  }
  if (lane == 0) room.found[side] = key_from(side, reached);
}

/// Puts the keys of both bounds into room.found: the k[side]-th from that side. All threads take part, and the next
/// barrier is the caller's. False, for all, where that was not done. A share of k for each warp is at most 64.
/// `elements.bits(c)`: those of column c, which few are asked for.
template <int kPieces, class Elements>
__device__ __forceinline__ bool select_quickly(const RowInRegisters<kPieces>& y, const Elements& elements,
                                               const std::uint32_t (&k)[2], const std::uint32_t (&share)[2],
                                               SelectRoom& room) {
  const Extremes extremes(y);
  if (threadIdx.x == 0) room.listed = 0;
  find_thresholds(extremes, share, room);
  if (__syncthreads_or(extremes.finite() ? 0 : 1) != 0) return false;
  list_candidates(y, room);
  __syncthreads();
  if (room.listed > kMostListed) return false;
#pragma unroll 1
  for (std::uint32_t i = threadIdx.x; i < room.listed; i += blockDim.x) {
    const std::uint32_t c = room.list[i];
    room.list[i] = bf16_key(elements.bits(c)) << 16 | c;
  }
  __syncthreads();
  const std::uint32_t warp = threadIdx.x / 32;
  if (warp == 0) find_among_listed(kHigh, k[kHigh], room);
  if (warp == (blockDim.x > 32 ? 1 : 0)) find_among_listed(kLow, k[kLow], room);
  return true;
}

/// The same for any row, by histograms of the upper and of the lower eight bits of the keys.
template <class Elements>
__device__ __forceinline__ void select_slowly(const Elements& elements, std::uint32_t cols, std::uint32_t low,
                                              std::uint32_t high, SelectRoom& room) {
  __syncthreads();
  if (threadIdx.x == 0) room.quantiles = {{0, 0}, {low, high}};
  for (int pass = 0; pass < 2; ++pass) {
    const Digit digit{pass == 0 ? 24 : 16, 8};
    for (std::uint32_t i = threadIdx.x; i < 2 * kByteBins; i += blockDim.x) room.list[i] = 0;
    __syncthreads();
    for (std::uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
      count_key(bf16_key(elements.bits(c)) << 16, digit, pass == 0, room.quantiles, room.list, kByteBins);
    }
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x / 32); k < 2; k += static_cast<int>(blockDim.x / 32)) {
      find_digit(room.list + (pass == 0 ? 0 : k * kByteBins), digit, k, room.quantiles);
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  room.found[kLow] = room.quantiles.prefix[0];
  room.found[kHigh] = room.quantiles.prefix[1];
}

}  // namespace nibble::quant_cuda
