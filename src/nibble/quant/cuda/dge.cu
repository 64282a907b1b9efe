// The differentiable gradient estimator. 12 bytes an element to and from memory against some sixty instructions: bound
// by memory, with half of the issue slots to spare. A warp takes 1024 columns of a row, so that matrices of few rows
// have work for all multiprocessors too, a lane four at a time in accesses of 16 bytes. The arithmetic is that of the
// CPU (quant/dge_element.h), to the bit.
#include <limits>
#include <type_traits>

#include "nibble/quant/backend.h"
#include "nibble/quant/cuda/block_scales.cuh"
#include "nibble/quant/dge_element.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr std::uint32_t kPiece = 1024;

/// 1/s, 0 where s is 0, whose weights all became zero.
__device__ __forceinline__ float inverse_scale(const quant_cuda::BlockScales& scales, std::uint32_t r, std::uint32_t c,
                                               float factor) {
  const float inverse = 1.0f / (scales.scale(r, c) * factor);
  return inverse <= std::numeric_limits<float>::max() ? inverse : 0.0f;
}

/// kWidth columns lie under one scale. kRowScale: the whole row does. kRound: w, the scaled weight and f' are rounded
/// to BF16. A row has `pieces`.
template <int kWidth, bool kRowScale, bool kRound, class W>
__global__ void __launch_bounds__(kThreads)
    dge_kernel(float* dw, const W* w, const __grid_constant__ quant_cuda::BlockScales scales,
               quant_cuda::FastDivide pieces, DgeFactors dge) {
  constexpr int kWarps = kThreads / 32;
  const std::uint32_t cols = scales.q.cols;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t items = scales.q.rows * pieces.divisor();
  const float factor = scales.factor();
  for (std::uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32; item < items; item += gridDim.x * kWarps) {
    const std::uint32_t r = pieces.quotient(item);
    const std::uint32_t begin = (item - r * pieces.divisor()) * kPiece;
    const std::uint32_t end = min(cols, begin + kPiece);
    const W* from = w + static_cast<std::int64_t>(r) * cols;
    float* to = dw + static_cast<std::int64_t>(r) * cols;
    const float of_row = kRowScale ? inverse_scale(scales, r, 0, factor) : 0.0f;
#pragma unroll 2
    for (std::uint32_t c = begin + lane * kWidth; c < end; c += 32 * kWidth) {
      const Pack<W, kWidth> x = load_pack<kWidth>(from + c);
      Pack<float, kWidth> gradient = load_pack<kWidth>(to + c);
      const float inverse = kRowScale ? of_row : inverse_scale(scales, r, c, factor);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if constexpr (kRound) {
          const float scaled = bf16_round(to_float(x.v[i])) * inverse;
          gradient.v[i] *= bf16_round(dge_element(dge, bf16_round(scaled)));
        } else {
          gradient.v[i] *= dge_element(dge, to_float(x.v[i]) * inverse);
        }
      }
      store_pack(to + c, gradient);
    }
  }
}

}  // namespace

void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip) {
  if (q.rows * q.cols == 0) return;
  const DgeFactors dge = dge_factors(k, clip);
  const quant_cuda::BlockScales scales(q);
  const quant_cuda::FastDivide pieces((q.cols + kPiece - 1) / kPiece);
  const bool row_scale = scales.count == 1;
  const unsigned grid = grid_for(q.rows * pieces.divisor() * 32, kThreads);
  auto* gradient = device_data<float>(dw, "dge_apply");
  dispatch_float(w.dtype(), [&]<class W>(W*) {
    const W* weights = device_data<W>(w, "dge_apply");
    const bool packs = q.cols % 4 == 0 && (row_scale || scales.cols.divisor() % 4 == 0) && packs_fit(gradient, weights);
    const auto launch = [&](auto kernel) {
      kernel<<<grid, kThreads, 0, stream()>>>(gradient, weights, scales, pieces, dge);
    };
    const auto of_width = [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      if (row_scale) {
        launch(spec.bf16_input ? dge_kernel<kWidth, true, true, W> : dge_kernel<kWidth, true, false, W>);
      } else {
        launch(spec.bf16_input ? dge_kernel<kWidth, false, true, W> : dge_kernel<kWidth, false, false, W>);
      }
    };
    if (packs) {
      of_width(std::integral_constant<int, 4>());
    } else {
      of_width(std::integral_constant<int, 1>());
    }
  });
  launched("dge_apply");
}

}  // namespace nibble::cuda
