// The differentiable gradient estimator. 12 bytes an element to and from memory against some sixty instructions: bound
// by memory, with half of the issue slots to spare. A warp takes a row, a lane four columns at a time in accesses of 16
// bytes. The arithmetic is that of the CPU (quant/cpu/dge.cpp), to the bit.
#include <limits>

#include "nibble/numerics/e2m1.h"
#include "nibble/quant/backend.h"
#include "nibble/quant/cuda/block_scales.cuh"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;

/// |t| for |x| = a <= 6: how far a is from the middle of its grid interval, in half intervals.
__device__ __forceinline__ float distance_to_middle(float a) {
  const std::uint32_t binade = float_bits(a < 1.0f ? 1.0f : a) & 0x7F80'0000u;
  const float intervals = a * bits_float(0x7F80'0000u - binade);
  const float u = intervals - static_cast<float>(static_cast<std::int32_t>(intervals));
  const float t = 2.0f * u - 1.0f;
  return float_abs(t);
}

/// log2(x) by the series of 2 / ln 2 * atanh((m - 1) / (m + 1)).
__device__ __forceinline__ float log2_series(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::int32_t e = static_cast<std::int32_t>(bits - 0x3F35'04F3u) >> 23;
  const float m = bits_float(bits - (static_cast<std::uint32_t>(e) << 23));
  const float s = (m - 1.0f) / (m + 1.0f);
  const float s2 = s * s;
  const float series =
      s * (2.885390082f + s2 * (0.9617966940f + s2 * (0.5770780164f + s2 * (0.4121985831f + s2 * 0.3205988980f))));
  return static_cast<float>(e) + series;
}

/// 2^y by the Taylor series of e^(f ln 2).
__device__ __forceinline__ float exp2_series(float y) {
  constexpr float kMagic = 0x1.8p23f;
  const float shifted = y + kMagic;
  const float f = (y - (shifted - kMagic)) * 0.6931471806f;
  const float series =
      1.0f + f * (1.0f + f * (0.5f + f * (1.0f / 6 +
                                          f * (1.0f / 24 + f * (1.0f / 120 + f * (1.0f / 720 + f * (1.0f / 5040)))))));
  const std::uint32_t n = float_bits(shifted) - float_bits(kMagic);
  return bits_float(float_bits(series) + (n << 23));
}

struct Dge {
  float slope;     ///< 1/k
  float exponent;  ///< 1/k - 1
  float clip;
  float at_middle;  ///< f' at t = 0
};

/// f' of a scaled weight, |x| bounded to 6.
__device__ __forceinline__ float derivative(float x, Dge dge) {
  const float a = float_abs(x) < kE2M1Max ? float_abs(x) : kE2M1Max;
  const float t = distance_to_middle(a);
  const float power = dge.slope * exp2_series(dge.exponent * log2_series(t > 0x1p-30f ? t : 0x1p-30f));
  const float bounded = power < dge.clip ? power : dge.clip;
  return t == 0.0f ? dge.at_middle : bounded;
}

/// 1/s, 0 where s is 0, whose weights all became zero.
__device__ __forceinline__ float inverse_scale(const quant_cuda::BlockScales& scales, std::uint32_t r, std::uint32_t c,
                                               float factor) {
  const float inverse = 1.0f / (scales.scale(r, c) * factor);
  return inverse <= std::numeric_limits<float>::max() ? inverse : 0.0f;
}

/// kWidth columns lie under one scale. kRound: w, the scaled weight and f' are rounded to BF16.
template <int kWidth, bool kRound, class W>
__global__ void __launch_bounds__(kThreads)
    dge_kernel(float* dw, const W* w, const __grid_constant__ quant_cuda::BlockScales scales, bool scale_a_row,
               Dge dge) {
  constexpr int kWarps = kThreads / 32;
  const std::uint32_t cols = scales.q.cols;
  const std::uint32_t lane = threadIdx.x % 32;
  const float factor = scales.factor();
  for (std::uint32_t r = blockIdx.x * kWarps + threadIdx.x / 32; r < scales.q.rows; r += gridDim.x * kWarps) {
    const W* from = w + static_cast<std::int64_t>(r) * cols;
    float* to = dw + static_cast<std::int64_t>(r) * cols;
    const float of_row = scale_a_row ? inverse_scale(scales, r, 0, factor) : 0.0f;
#pragma unroll 2
    for (std::uint32_t c = lane * kWidth; c < cols; c += 32 * kWidth) {
      const Pack<W, kWidth> x = load_pack<kWidth>(from + c);
      Pack<float, kWidth> gradient = load_pack<kWidth>(to + c);
      const float inverse = scale_a_row ? of_row : inverse_scale(scales, r, c, factor);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if constexpr (kRound) {
          const float scaled = bf16_round(to_float(x.v[i])) * inverse;
          gradient.v[i] *= bf16_round(derivative(bf16_round(scaled), dge));
        } else {
          gradient.v[i] *= derivative(to_float(x.v[i]) * inverse, dge);
        }
      }
      store_pack(to + c, gradient);
    }
  }
}

}  // namespace

void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip) {
  require(dw.dtype() == DType::F32 && dw.rows() == q.rows && dw.cols() == q.cols && w.rows() == q.rows &&
              w.cols() == q.cols,
          "dge_apply to {} with weights {} and a [{}, {}] QTensor", to_string(dw), to_string(w), q.rows, q.cols);
  require(q.element == ElementFormat::E2M1 || q.element_scales.defined(), "dge_apply wants E2M1 elements");
  require(k >= 1, "dge_apply with k = {}; the estimator needs k >= 1", k);
  if (q.rows * q.cols == 0) return;
  const float slope = 1.0f / k;
  const Dge dge{slope, slope - 1.0f, clip, k > 1 ? clip : std::min(slope, clip)};
  const quant_cuda::BlockScales scales(q);
  const bool scale_a_row = scales.count == 1;
  const unsigned grid = grid_for(q.rows * 32, kThreads);
  auto* gradient = device_data<float>(dw, "dge_apply");
  dispatch_float(w.dtype(), [&]<class W>(W*) {
    const W* weights = device_data<W>(w, "dge_apply");
    const bool packs =
        q.cols % 4 == 0 && (scale_a_row || scales.cols.divisor() % 4 == 0) && packs_fit(gradient, weights);
    const auto launch = [&](auto kernel) {
      kernel<<<grid, kThreads, 0, stream()>>>(gradient, weights, scales, scale_a_row, dge);
    };
    if (spec.bf16_input) {
      launch(packs ? dge_kernel<4, true, W> : dge_kernel<1, true, W>);
    } else {
      launch(packs ? dge_kernel<4, false, W> : dge_kernel<1, false, W>);
    }
  });
  launched("dge_apply");
}

}  // namespace nibble::cuda
