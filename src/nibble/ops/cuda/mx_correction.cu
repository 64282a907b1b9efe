#include "nibble/ops/cuda/gemm_codes.cuh"
#include "nibble/ops/cuda/mx_correction.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

// Mostly there is nothing to do: the threads read two numbers and leave. Otherwise a thread block takes 16 listed rows
// of one operand by 32 rows of the other, and of the contraction the blocks that one of the 16 left out, each of its
// four warps a quarter of them; the other rows' codes count as zeros there. One tensor core instruction sums the 32
// products of a block for 16 x 8 of them, in int32 and so exactly: codes are twice E2M1. Its threads hold
//
//   thread    codes of a block                                        sums (C of the tile)
//   4 g + t   rows g, g + 8 and, of the other, 8 j + g: 8 t to 8 t + 7    rows g, g + 8; 8 j + 2 t, 8 j + 2 t + 1
//
// (the instruction counts the contraction otherwise, but a sum does not depend on that). Operands come from L2 or L1
// four blocks at a time; where whole rows are left out, what bounds it is the instructions that scale and add the sums,
// about three times those that decode.

namespace nibble::cuda {
namespace {

constexpr int kRows = 16;   ///< listed rows of a tile
constexpr int kGroups = 4;  ///< groups of 8 rows of the other operand
constexpr int kCols = 8 * kGroups;
constexpr int kBlocks = 4;  ///< blocks loaded at a time
constexpr int kWarps = 4;   ///< one for each four of 16 blocks
constexpr unsigned kThreads = 32 * kWarps;
constexpr int kBlockBytes = 16;
constexpr unsigned kAllFour = 0xF;

struct Side {
  Stored codes;
  const std::uint8_t* scales;
  std::int64_t scale_cols;
  bool scales_aligned;  ///< fours of them can be loaded at once
  const std::uint8_t* is_listed;
  const std::uint16_t* left_out;
  std::int64_t left_out_words;
  const std::int32_t* listed;
  const std::int32_t* n_listed;
  std::int64_t step;  ///< from row to row of this operand in C
  float factor;       ///< times *device_factor: the tensor scale
  const float* device_factor;
};

struct Product {
  Side side[2];
  std::int64_t blocks;  ///< of the contraction
  unsigned long long* counts;
};

/// Four codes, the first in the lowest nibble, to four times two of their values, as bytes.
__device__ std::uint32_t integers_of_four(std::uint32_t codes) {
  const std::uint32_t magnitudes = codes & 0x7777u;
  const std::uint32_t positive = __byte_perm(0x0302'0100u, 0x0C08'0604u, magnitudes);
  const std::uint32_t negative = __byte_perm(0xFDFE'FF00u, 0xF4F8'FAFCu, magnitudes);
  const std::uint32_t is_negative = __byte_perm(0xFF00u, 0u, (codes >> 3) & 0x1111u);
  return (positive & ~is_negative) | (negative & is_negative);
}

__device__ std::uint32_t codes_of(const Side& s, std::int64_t row, bool inside, std::int64_t at) {
  std::uint32_t word;
  load_piece<4>(s.codes.codes + row * s.codes.row_bytes + at, inside ? s.codes.row_bytes - at : 0,
                s.codes.alignment % 4 == 0, &word);
  return word;
}

/// The scales of four blocks, a byte each; 0 beyond the operand.
__device__ std::uint32_t scales_of(const Side& s, std::int64_t row, bool inside, std::int64_t block) {
  std::uint32_t word;
  load_piece<4>(s.scales + row * s.scale_cols + block, inside ? s.scale_cols - block : 0, s.scales_aligned, &word);
  return word;
}

__device__ float scale_in(std::uint32_t scales, int i) {
  return e8m0_decode(static_cast<std::uint8_t>(scales >> 8 * i & 0xFFu));
}

/// sums[16, 8] = the products of 16 rows and 8 rows over 32 elements.
__device__ void multiply(const std::uint32_t (&rows)[2][2], const std::uint32_t (&cols)[2], std::int32_t (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %10, %10, %10};"
      : "=r"(sums[0]), "=r"(sums[1]), "=r"(sums[2]), "=r"(sums[3])
      : "r"(rows[0][0]), "r"(rows[1][0]), "r"(rows[0][1]), "r"(rows[1][1]), "r"(cols[0]), "r"(cols[1]), "r"(0));
}

/// The blocks [block, block + 4) that a listed row left out, a bit each.
__device__ unsigned left_out_of(const Side& s, std::int64_t row, std::int64_t block) {
  return static_cast<unsigned>(s.left_out[row * s.left_out_words + block / 16]) >> block % 16 & kAllFour;
}

/// Calls f(first block) for the fours of blocks of which one was left out by one of kCount rows, those that each warp's
/// first lanes name, in order; a warp takes those of its number, so that the sums do not depend on the other rows.
template <int kCount, class F>
__device__ void for_left_out(const Side& s, std::int64_t row, bool counts, F&& f) {
  const unsigned lane = threadIdx.x % 32;
  for (std::int64_t words = 0; words < s.left_out_words; words += 32) {
    unsigned united = 0;  // a word of the rows' a lane
#pragma unroll 4
    for (int i = 0; i < kCount; ++i) {
      const std::int64_t r = __shfl_sync(0xFFFF'FFFFu, row, i);
      const bool of_rows = __shfl_sync(0xFFFF'FFFFu, static_cast<int>(counts), i) != 0;
      if (of_rows && words + lane < s.left_out_words) united |= s.left_out[r * s.left_out_words + words + lane];
    }
    unsigned waiting = __ballot_sync(0xFFFF'FFFFu, united != 0);
    for (; waiting != 0; waiting &= waiting - 1) {
      const int word = __ffs(static_cast<int>(waiting)) - 1;
      const unsigned bits = __shfl_sync(0xFFFF'FFFFu, united, word);
      const unsigned four = threadIdx.x / 32;
      if ((bits >> 4 * four & kAllFour) != 0) f((words + word) * 16 + 4 * four);
    }
  }
}

/// The tile of listed rows [first, first + 16) of side `which` by rows [other, other + 32) of the other one, added to
/// C: what the former left out, by all, and of A's tiles what they did not by what the latter left out. Where B's rows
/// are the listed ones, elements of listed rows of A have had all of that.
template <int which, class T>
__device__ void add_tile(const Product& p, int first, std::int64_t other, T* c) {
  const Side& left = p.side[which];
  const Side& right = p.side[1 - which];
  const int n_listed = *left.n_listed;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int g = lane / 4;
  const int t = lane % 4;
  bool row_inside[2];
  std::int64_t row[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int i = first + g + 8 * h;
    row_inside[h] = i < n_listed;
    row[h] = row_inside[h] ? left.listed[i] : 0;
  }

  float sum[kGroups][4] = {};
  // Adds four blocks, of them what is to be read of rows g, g + 8 and of rows 8 j + g of the other side, a bit a block.
  const auto add_four = [&](std::int64_t block, const unsigned(&of_rows)[2], const unsigned(&of_cols)[kGroups]) {
    std::uint32_t row_codes[kBlocks][2];
    std::uint32_t row_scales[2];
    std::uint32_t col_codes[kBlocks][kGroups];
    std::uint32_t col_scales[kGroups][2];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const std::int64_t at = (block + i) * kBlockBytes + 4 * t;
#pragma unroll
      for (int h = 0; h < 2; ++h) row_codes[i][h] = codes_of(left, row[h], (of_rows[h] >> i & 1u) != 0, at);
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        col_codes[i][j] = codes_of(right, other + 8 * j + g, (of_cols[j] >> i & 1u) != 0, at);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row_scales[h] = scales_of(left, row[h], row_inside[h], block);
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const std::int64_t r = other + 8 * j + 2 * t + h;
        col_scales[j][h] = scales_of(right, r, r < right.codes.rows, block);
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      std::uint32_t rows[2][2];
      float row_scale[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        rows[h][0] = integers_of_four(row_codes[i][h]);
        rows[h][1] = integers_of_four(row_codes[i][h] >> 16);
        row_scale[h] = scale_in(row_scales[h], i);
      }
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const std::uint32_t cols[2] = {integers_of_four(col_codes[i][j]), integers_of_four(col_codes[i][j] >> 16)};
        std::int32_t sums[4];
        multiply(rows, cols, sums);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float scaled = static_cast<float>(sums[e]) * row_scale[e / 2];
          sum[j][e] = sum[j][e] + scaled * scale_in(col_scales[j][e % 2], i);
        }
      }
    }
  };

  unsigned all_cols[kGroups];
#pragma unroll
  for (int j = 0; j < kGroups; ++j) all_cols[j] = other + 8 * j + g < right.codes.rows ? kAllFour : 0;
  const int mine = first + lane % kRows;
  for_left_out<kRows>(left, mine < n_listed ? left.listed[mine] : 0, mine < n_listed, [&](std::int64_t block) {
    unsigned of_rows[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) of_rows[h] = row_inside[h] ? left_out_of(left, row[h], block) : 0;
    add_four(block, of_rows, all_cols);
  });
  if constexpr (which == 0) {
    const std::int64_t my_col = other + lane;
    const bool listed = my_col < right.codes.rows && right.is_listed[my_col] != 0;
    if (__any_sync(0xFFFF'FFFFu, listed)) {
      for_left_out<kCols>(right, my_col, listed, [&](std::int64_t block) {
        unsigned of_rows[2];
        unsigned of_cols[kGroups];
#pragma unroll
        for (int h = 0; h < 2; ++h) of_rows[h] = row_inside[h] ? kAllFour & ~left_out_of(left, row[h], block) : 0;
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
          const std::int64_t r = other + 8 * j + g;
          of_cols[j] = r < right.codes.rows && right.is_listed[r] != 0 ? left_out_of(right, r, block) : 0;
        }
        add_four(block, of_rows, of_cols);
      });
    }
  }

  __shared__ float sums_of_warps[kWarps - 1][kGroups * 4][32];
  const int warp = static_cast<int>(threadIdx.x / 32);
  if (warp > 0) {
#pragma unroll
    for (int i = 0; i < kGroups * 4; ++i) sums_of_warps[warp - 1][i][lane] = sum[i / 4][i % 4];
  }
  __syncthreads();
  if (warp == 0) {
#pragma unroll
    for (int i = 0; i < kGroups * 4; ++i) {
#pragma unroll
      for (int w = 0; w < kWarps - 1; ++w) sum[i / 4][i % 4] = sum[i / 4][i % 4] + sums_of_warps[w][i][lane];
    }
  }
  __syncthreads();  // the next tile writes there again
  if (warp > 0) return;

  float factor[2];
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const float* device = p.side[s].device_factor;
    factor[s] = device == nullptr ? p.side[s].factor : p.side[s].factor * *device;
  }
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::int64_t r = other + 8 * j + 2 * t + e % 2;
      if (!row_inside[e / 2] || r >= right.codes.rows || (which == 1 && right.is_listed[r] != 0)) continue;
      T* to = c + row[e / 2] * left.step + r * right.step;
      *to = from_float<T>(to_float(*to) + sum[j][e] * 0.25f * factor[0] * factor[1]);
    }
  }
}

/// What side `which` left out; thread blocks take tiles in turn.
template <int which, class T>
__device__ void add_side(const Product& p, T* c) {
  const int n_listed = *p.side[which].n_listed;
  if (n_listed == 0) return;
  const Side& right = p.side[1 - which];
  const std::int64_t across = (right.codes.rows + kCols - 1) / kCols;
  const std::int64_t tiles = (n_listed + kRows - 1) / kRows * across;
  for (std::int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const std::int64_t other = i % across * kCols;
    if (which == 1) {
      const std::int64_t r = other + threadIdx.x % 32;
      if (__all_sync(0xFFFF'FFFFu, r >= right.codes.rows || right.is_listed[r] != 0)) continue;
    }
    add_tile<which>(p, static_cast<int>(i / across) * kRows, other, c);
  }
}

/// blockIdx.y is the side. The two have no element in common.
template <class T>
__global__ __launch_bounds__(kThreads) void mx_add_left_out(const __grid_constant__ Product p, T* c) {
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    p.counts[0] += static_cast<unsigned long long>(*p.side[0].n_listed + *p.side[1].n_listed);
    p.counts[1] += static_cast<unsigned long long>(p.side[0].codes.rows + p.side[1].codes.rows);
  }
  if (blockIdx.y == 0) {
    add_side<0>(p, c);
  } else {
    add_side<1>(p, c);
  }
}

static_assert(kCols == 32, "a lane looks at one row of the other operand");

Side side_of(const GemmOperand& x, const MxOperand& operand, std::int64_t step) {
  const QTensor& q = x.matrix;
  Side s;
  s.codes = stored(q);
  s.scales = q.scales.data<std::uint8_t>();
  s.scale_cols = q.scale_cols();
  s.scales_aligned = (address(s.scales) | static_cast<std::uintptr_t>(s.scale_cols)) % 4 == 0;
  s.is_listed = operand.is_listed;
  s.left_out = operand.left_out;
  s.left_out_words = operand.left_out_words;
  s.listed = operand.listed;
  s.n_listed = operand.n_listed;
  s.step = step;
  s.factor = q.tensor_scale;
  s.device_factor = q.device_scale.defined() ? q.device_scale.data<float>() : nullptr;
  return s;
}

/// {rows listed, rows} of all products of this process.
unsigned long long* row_counts() {
  // Never freed: at the end of the process the driver may be gone before it.
  static const OwnedTensor& counts = *new OwnedTensor(DType::U8, {2 * sizeof(unsigned long long)}, Device::Cuda);
  return static_cast<unsigned long long*>(counts.view().raw());
}

}  // namespace

void add_left_out(const GemmOperand& a, const MxOperand& x, const GemmOperand& b, const MxOperand& y, const Tensor& c) {
  const Product p{{side_of(a, x, c.dim(1)), side_of(b, y, 1)}, a.matrix.scale_cols(), row_counts()};
  const std::int64_t tiles = std::max((c.dim(0) + kRows - 1) / kRows * ((c.dim(1) + kCols - 1) / kCols),
                                      (c.dim(1) + kRows - 1) / kRows * ((c.dim(0) + kCols - 1) / kCols));
  const dim3 grid(static_cast<unsigned>(std::min<std::int64_t>(tiles, 8 * multiprocessors())), 2);
  dispatch_float(c.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    mx_add_left_out<<<grid, kThreads, 0, stream()>>>(p, c.data<T>());
  });
  launched("mx_add_left_out");
}

MxRowCount mx_row_count() {
  unsigned long long counts[2];
  to_host(counts, row_counts(), sizeof(counts));
  return {static_cast<std::int64_t>(counts[0]), static_cast<std::int64_t>(counts[1])};
}

}  // namespace nibble::cuda
