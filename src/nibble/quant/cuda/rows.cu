// One scale a row, from its amax: the row is read once and stays in registers. Bound by memory.
//
// `lanes` threads (whole warps) take a row, up to four pieces of eight columns each, piece k of thread t at column
// 8 (t + k lanes); short rows share a block. Without folds and transforms the pieces stay as they were read until they
// are encoded, which for BF16 takes half the registers.
#include "nibble/quant/cuda/cases.cuh"
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMostLanes = 512;
constexpr int kMostPieces = 4;

constexpr Case kCases[] = {
    {},
    {.rounding = Rounding::NearestUp},
    {.rounding = Rounding::Stochastic},
    {.element = ElementFormat::E4M3, .folds = true},
};

/// Eight columns as they are read.
template <class T>
struct Raw;
template <>
struct Raw<bf16> {
  uint4 pairs = {0, 0, 0, 0};
  __device__ __forceinline__ void load(const bf16* row, std::uint32_t c) {
    pairs = __ldg(reinterpret_cast<const uint4*>(row + c));
  }
  __device__ __forceinline__ std::int32_t amax() const {
    const std::uint32_t most = larger(larger(pairs.x, pairs.y), larger(pairs.z, pairs.w)) & 0x7FFF'7FFFu;
    return static_cast<std::int32_t>(max(most & 0xFFFF'0000u, most << 16));
  }
  /// Of two pairs the larger magnitudes, under some sign.
  static __device__ __forceinline__ std::uint32_t larger(std::uint32_t a, std::uint32_t b) {
    std::uint32_t most;
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
    return most;
  }
  __device__ __forceinline__ void values(float (&y)[8]) const {
    const std::uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[2 * i] = bits_float(words[i] << 16);
      y[2 * i + 1] = bits_float(words[i] & 0xFFFF'0000u);
    }
  }
};
template <>
struct Raw<float> {
  float4 low = {0, 0, 0, 0};
  float4 high = {0, 0, 0, 0};
  __device__ __forceinline__ void load(const float* row, std::uint32_t c) {
    low = __ldg(reinterpret_cast<const float4*>(row + c));
    high = __ldg(reinterpret_cast<const float4*>(row + c + 4));
  }
  __device__ __forceinline__ std::int32_t amax() const {
    const float y[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    return amax_bits(y);
  }
  __device__ __forceinline__ void values(float (&y)[8]) const {
    y[0] = low.x, y[1] = low.y, y[2] = low.z, y[3] = low.w;
    y[4] = high.x, y[5] = high.y, y[6] = high.z, y[7] = high.w;
  }
};

/// Eight columns that are worked out as they are read.
struct Computed {
  float y[8] = {};
  /// Of rows of whole pieces; the folds of the columns may be none.
  template <class T>
  __device__ __forceinline__ void load(const T* row, std::uint32_t c, const float* row_fold, const float* col_fold) {
    Raw<T> raw;
    raw.load(row, c);
    raw.values(y);
    if (row_fold != nullptr) {
      const float fold = *row_fold;
#pragma unroll
      for (float& v : y) v *= fold;
    }
    if (col_fold == nullptr) return;
    Raw<float> folds;
    folds.load(col_fold, c);
    float f[8];
    folds.values(f);
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] *= f[i];
  }
  __device__ __forceinline__ std::int32_t amax() const { return amax_bits(y); }
  __device__ __forceinline__ void values(float (&out)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = y[i];
  }
};

constexpr bool stays_raw(int number) { return number != kAnyCase && !kCases[number].folds; }

template <int kCase, class T, int kPieces>
__global__ void __launch_bounds__(kMostLanes)
    encode_rows_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                       const __grid_constant__ EncodeView encode, const __grid_constant__ ScaleView scale_view,
                       const __grid_constant__ ScalesView scales, int lanes) {
  using Piece = std::conditional_t<stays_raw(kCase), Raw<T>, Computed>;
  __shared__ std::int32_t of_warp[kMostLanes / 32];
  const std::uint32_t in_block = threadIdx.x / static_cast<unsigned>(lanes);
  const std::uint32_t r = blockIdx.x * (blockDim.x / static_cast<unsigned>(lanes)) + in_block;
  const std::uint32_t t = threadIdx.x - in_block * static_cast<unsigned>(lanes);
  Piece pieces[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const std::uint32_t c = 8 * (t + static_cast<unsigned>(k * lanes));
    if constexpr (stays_raw(kCase)) {
      if (r < source.rows && c < source.cols) {
        pieces[k].load(static_cast<const T*>(source.x) + static_cast<std::int64_t>(r) * source.cols, c);
      }
    } else if constexpr (kCase != kAnyCase) {
      if (r < source.rows && c < source.cols) {
        pieces[k].load(static_cast<const T*>(source.x) + static_cast<std::int64_t>(r) * source.cols, c,
                       source.row_fold == nullptr ? nullptr : source.row_fold + r, source.col_fold);
      }
    } else {
      read_eight<T>(source, r, c, pieces[k].y);
    }
  }
  std::int32_t amax = 0;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) amax = max(amax, pieces[k].amax());
  amax = __reduce_max_sync(0xFFFF'FFFFu, amax);
  if (lanes > 32) {
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = amax;
    __syncthreads();
    const std::uint32_t warps = static_cast<unsigned>(lanes) / 32;
    for (std::uint32_t w = 0; w < warps; ++w) amax = max(amax, of_warp[in_block * warps + w]);
  }
  if (r >= source.rows) return;
  const BlockScale scale = block_scale(scale_view, amax, 0.0f, 0.0f, 1.0f);
  const bool all_finite = is_finite_amax(amax);
  if (t == 0) scales.store(r, scale.stored, scale.code);
  const float m[8] = {scale.multiplier, scale.multiplier, scale.multiplier, scale.multiplier,
                      scale.multiplier, scale.multiplier, scale.multiplier, scale.multiplier};
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const std::uint32_t c = 8 * (t + static_cast<unsigned>(k * lanes));
    if (c >= source.cols) continue;
    float y[8];
    pieces[k].values(y);
    if constexpr (kCase == kAnyCase) {
      encode_eight(encode, codes, r, c, y, m, all_finite);
    } else {
      encode_eight(as_in<kCases, kCase>(encode), as_in<kCases, kCase>(codes), r, c, y, m, all_finite);
    }
  }
}

struct Layout {
  int pieces = 1;
  int lanes = 32;
};

/// The most pieces a thread that leave the fewest idle.
Layout layout_for(std::int64_t cols) {
  const std::int64_t chunks = chunks_of_row(cols);
  Layout best;
  std::int64_t fewest = -1;
  for (const int pieces : {4, 2, 1}) {
    const std::int64_t lanes = (chunks + pieces * 32 - 1) / (pieces * 32) * 32;
    if (lanes > kMostLanes) break;
    if (fewest >= 0 && lanes * pieces >= fewest) continue;
    fewest = lanes * pieces;
    best = {pieces, static_cast<int>(lanes)};
  }
  return best;
}

template <int kCase, class T, int kPieces>
void launch(const Job& job, int lanes) {
  const int rows = std::max(1, kThreads / lanes);
  encode_rows_kernel<kCase, T, kPieces>
      <<<blocks_for(job.rows(), rows), static_cast<unsigned>(rows * lanes), 0, cuda::stream()>>>(
          job.source, CodesView(job.q, job.form), encode_view(job), ScaleView(job.spec), ScalesView(job.q.scales),
          lanes);
  cuda::launched("encode_rows_kernel");
}

template <int kCase>
void encode_in_case(const Job& job) {
  const Layout layout = layout_for(job.cols());
  dispatch_float(job.dtype, [&]<class T>(T*) {
    switch (layout.pieces) {
      case 1: return launch<kCase, T, 1>(job, layout.lanes);
      case 2: return launch<kCase, T, 2>(job, layout.lanes);
      default: return launch<kCase, T, 4>(job, layout.lanes);
    }
  });
}

}  // namespace

bool fits_one_pass(const QuantSpec& spec, std::int64_t cols) {
  const Granularity& blocks = spec.granularity;
  return blocks.rows == 1 && (blocks.cols == 0 || blocks.cols >= cols) && spec.scale != ScaleRule::Nvfp4 &&
         quant_cpu::moments_of(spec.scale) == Moments::None && cols <= std::int64_t{8} * kMostPieces * kMostLanes;
}

bool fits_rows(const Job& job) { return fits_one_pass(job.spec, job.cols()); }

void encode_rows(const Job& job) {
  dispatch_case<kCases>(job, [&](auto number) { encode_in_case<number>(job); });
}

}  // namespace nibble::quant_cuda
