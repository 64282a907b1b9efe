// One scale a row, from its amax: the row is read once and stays in registers. Bound by memory.
//
// `lanes` threads (whole warps) take a row, `per_thread` pieces of eight columns each, piece k of thread t at column
// 8 (t + k lanes); short rows share a block.
#include "nibble/quant/cuda/cases.cuh"
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMostLanes = 512;
constexpr int kMostPieces = 4;

template <class T, int kPieces>
__device__ __forceinline__ void encode_rows(const SourceView& source, const CodesView& codes, const EncodeView& encode,
                                            const ScaleView& scale_view, const ScalesView& scales, int lanes) {
  __shared__ std::int32_t of_warp[kMostLanes / 32];
  const std::uint32_t in_block = threadIdx.x / static_cast<unsigned>(lanes);
  const std::uint32_t r = blockIdx.x * (blockDim.x / static_cast<unsigned>(lanes)) + in_block;
  const std::uint32_t t = threadIdx.x - in_block * static_cast<unsigned>(lanes);
  float y[kPieces][8];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) read_eight<T>(source, r, 8 * (t + static_cast<unsigned>(k * lanes)), y[k]);
  std::int32_t amax = 0;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
#pragma unroll
    for (int i = 0; i < 8; ++i) amax = max(amax, magnitude_bits(y[k][i]));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) amax = max(amax, __shfl_xor_sync(0xFFFF'FFFFu, amax, step));
  if (lanes > 32) {
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = amax;
    __syncthreads();
    const std::uint32_t warps = static_cast<unsigned>(lanes) / 32;
    for (std::uint32_t w = 0; w < warps; ++w) amax = max(amax, of_warp[in_block * warps + w]);
  }
  const BlockScale scale = block_scale(scale_view, amax, 0.0f, 0.0f, 1.0f);
  if (r >= source.rows) return;
  if (t == 0) scales.store(r, scale.stored, scale.code);
  const float m[8] = {scale.multiplier, scale.multiplier, scale.multiplier, scale.multiplier,
                      scale.multiplier, scale.multiplier, scale.multiplier, scale.multiplier};
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const std::uint32_t c = 8 * (t + static_cast<unsigned>(k * lanes));
    if (c < source.cols) encode_eight(encode, codes, r, c, y[k], m);
  }
}

template <class Case, class T, int kPieces>
__global__ void __launch_bounds__(kMostLanes)
    encode_rows_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                       const __grid_constant__ EncodeView encode, const __grid_constant__ ScaleView scale_view,
                       const __grid_constant__ ScalesView scales, int lanes) {
  if constexpr (Case::kAny) {
    encode_rows<T, kPieces>(source, codes, encode, scale_view, scales, lanes);
  } else {
    encode_rows<T, kPieces>(as_in<Case>(source), as_in<Case>(codes), as_in<Case>(encode), as_in<Case>(scale_view),
                            scales, lanes);
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

template <class Case, class T, int kPieces>
void launch(const Job& job, int lanes) {
  const int rows = std::max(1, kThreads / lanes);
  encode_rows_kernel<Case, T, kPieces>
      <<<blocks_for(job.rows(), rows), static_cast<unsigned>(rows * lanes), 0, cuda::stream()>>>(
          job.source, CodesView(job.q), encode_view(job), ScaleView(job.spec), ScalesView(job.q.scales), lanes);
  cuda::launched("encode_rows_kernel");
}

}  // namespace

bool fits_rows(const Job& job) {
  return job.q.block_rows() == 1 && job.q.block_cols() >= job.cols() && job.spec.scale != ScaleRule::Nvfp4 &&
         quant_cpu::moments_of(job.spec.scale) == quant_cpu::Moments::None &&
         job.cols() <= std::int64_t{8} * kMostPieces * kMostLanes;
}

void encode_rows(const Job& job) {
  const Layout layout = layout_for(job.cols());
  dispatch_case(job, [&]<class Case>(Case) {
    dispatch_float(job.dtype, [&]<class T>(T*) {
      switch (layout.pieces) {
        case 1: return launch<Case, T, 1>(job, layout.lanes);
        case 2: return launch<Case, T, 2>(job, layout.lanes);
        default: return launch<Case, T, 4>(job, layout.lanes);
      }
    });
  });
}

}  // namespace nibble::quant_cuda
