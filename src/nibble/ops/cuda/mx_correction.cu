#include "nibble/ops/cuda/gemm_codes.cuh"
#include "nibble/ops/cuda/mx_correction.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

// Mostly there is nothing to do: the threads read two numbers and leave. Otherwise a warp takes 16 listed rows of one
// operand by 32 rows of the other. One tensor core instruction sums the 32 products of a block for 16 x 8 of them, in
// int32 and so exactly: codes are twice E2M1. Its threads hold
//
//   thread    codes of a block                                        sums (C of the tile)
//   4 g + t   rows g, g + 8 and, of the other, 8 j + g: 8 t to 8 t + 7    rows g, g + 8; 8 j + 2 t, 8 j + 2 t + 1
//
// (the instruction counts the contraction otherwise, but a sum does not depend on that). Operands come from L2 or L1
// four blocks at a time; what bounds it is the instructions that scale and add the sums, about three times those that
// decode.

namespace nibble::cuda {
namespace {

constexpr int kRows = 16;   ///< listed rows of a tile
constexpr int kGroups = 4;  ///< groups of 8 rows of the other operand
constexpr int kCols = 8 * kGroups;
constexpr int kBlocks = 4;  ///< blocks loaded at a time
constexpr unsigned kThreads = 128;
constexpr int kBlockBytes = 16;

struct Side {
  Stored codes;
  const std::uint8_t* scales;
  std::int64_t scale_cols;
  bool scales_aligned;  ///< fours of them can be loaded at once
  const float* row_scales;
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

/// The tile of listed rows [first, first + 16) of `left` by rows [other, other + 32) of `right`, added to C.
template <class T>
__device__ void add_tile(const Product& p, int which, int first, std::int64_t other, T* c) {
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
  for (std::int64_t block = 0; block < p.blocks; block += kBlocks) {
    std::uint32_t row_codes[kBlocks][2];
    std::uint32_t row_scales[2];
    std::uint32_t col_codes[kBlocks][kGroups];
    std::uint32_t col_scales[kGroups][2];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const std::int64_t at = (block + i) * kBlockBytes + 4 * t;
#pragma unroll
      for (int h = 0; h < 2; ++h) row_codes[i][h] = codes_of(left, row[h], row_inside[h], at);
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const std::int64_t r = other + 8 * j + g;
        col_codes[i][j] = codes_of(right, r, r < right.codes.rows, at);
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
  }

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
      if (!row_inside[e / 2] || r >= right.codes.rows) continue;
      // Rows of A come first; they have added what is listed in both.
      if (which == 1 && right.row_scales[r] == 0.0f) continue;
      T* to = c + row[e / 2] * left.step + r * right.step;
      *to = from_float<T>(to_float(*to) + sum[j][e] * 0.25f * factor[0] * factor[1]);
    }
  }
}

/// blockIdx.y is the operand whose listed rows are taken; warps take tiles in turn.
template <class T>
__global__ __launch_bounds__(kThreads) void mx_add_listed(const __grid_constant__ Product p, T* c) {
  const int which = static_cast<int>(blockIdx.y);
  const int n_listed = *p.side[which].n_listed;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    p.counts[0] += static_cast<unsigned long long>(n_listed + *p.side[1].n_listed);
    p.counts[1] += static_cast<unsigned long long>(p.side[0].codes.rows + p.side[1].codes.rows);
  }
  if (n_listed == 0) return;
  const Side& right = p.side[1 - which];
  const std::int64_t across = (right.codes.rows + kCols - 1) / kCols;
  const std::int64_t tiles = (n_listed + kRows - 1) / kRows * across;
  const std::int64_t warps = std::int64_t{gridDim.x} * (kThreads / 32);
  for (std::int64_t i = std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32; i < tiles; i += warps) {
    const std::int64_t other = i % across * kCols;
    if (which == 1) {
      const std::int64_t r = other + threadIdx.x % 32;
      if (__all_sync(0xFFFF'FFFFu, r >= right.codes.rows || right.row_scales[r] == 0.0f)) continue;
    }
    add_tile(p, which, static_cast<int>(i / across) * kRows, other, c);
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
  s.row_scales = operand.scales;
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

void add_listed_rows(const GemmOperand& a, const MxOperand& x, const GemmOperand& b, const MxOperand& y,
                     const Tensor& c) {
  const Product p{{side_of(a, x, c.dim(1)), side_of(b, y, 1)}, a.matrix.scale_cols(), row_counts()};
  const std::int64_t tiles = std::max((c.dim(0) + kRows - 1) / kRows * ((c.dim(1) + kCols - 1) / kCols),
                                      (c.dim(1) + kRows - 1) / kRows * ((c.dim(0) + kCols - 1) / kCols));
  const std::int64_t blocks = (tiles * 32 + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(std::min<std::int64_t>(blocks, 2 * multiprocessors())), 2);
  dispatch_float(c.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    mx_add_listed<<<grid, kThreads, 0, stream()>>>(p, c.data<T>());
  });
  launched("mx_add_listed");
}

MxRowCount mx_row_count() {
  unsigned long long counts[2];
  to_host(counts, row_counts(), sizeof(counts));
  return {static_cast<std::int64_t>(counts[0]), static_cast<std::int64_t>(counts[1])};
}

}  // namespace nibble::cuda
