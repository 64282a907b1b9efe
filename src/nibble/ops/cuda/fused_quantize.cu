// Rows of RMSNorm and SwiGLU under quantiles of their own, made in the registers of the thread block that clamps and
// encodes them (quant/cuda/clamped_rows.cuh): the values in BF16 are never written, which saves 4 of RMSNorm's and
// clamp's 9 bytes an element together and 4 of SwiGLU's 9.
//
// Elements beyond the clamp, a few per cent, are asked for once more: they are worked out again from the caches.
#include "nibble/ops/cuda/fused_quantize.h"
#include "nibble/ops/cuda/row_math.cuh"
#include "nibble/quant/cuda/clamped_rows.cuh"
#include "nibble/tensor/cuda/pack.cuh"

namespace nibble::cuda {

namespace {

using namespace quant_cuda;

constexpr int kPieces = kPiecesOfMade;

/// Eight columns of BF16 as they lie in registers. Rows that have a NaN are worked out again, element by element.
__device__ __forceinline__ uint4 as_words(const float (&y)[8]) {
  return make_uint4(bf16_pair(y[0], y[1]), bf16_pair(y[2], y[3]), bf16_pair(y[4], y[5]), bf16_pair(y[6], y[7]));
}

struct NormedRow {
  const float* x;
  const float* gain;
  float rstd;
  __device__ __forceinline__ std::uint32_t bits(std::uint32_t c) const {
    return from_float<bf16>(normed(x[c], rstd, gain[c])).bits;
  }
};

template <Tie tie, ClampOutput output>
__global__ void __launch_bounds__(kMostLanes, 3)
    rmsnorm_clamp_kernel(const float* x, const float* gain, float eps, float* rstd,
                         const __grid_constant__ ClampedRows a) {
  __shared__ ClampRoom room;
  __shared__ float sums[kMostLanes * kPieces * 8 / 128];
  const float* row = x + static_cast<std::int64_t>(blockIdx.x) * a.cols;
  float v[kPieces][8] = {};
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const std::uint32_t c = RowInRegisters<kPieces>::column(k);
    if (c < a.cols) load_floats(row + c, v[k]);
  }
  const float squares = squares_of_row(v, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), sums);
  const NormedRow elements{row, gain, rstd_of(squares, static_cast<float>(a.cols), eps)};
  if (threadIdx.x == 0) rstd[blockIdx.x] = elements.rstd;
  RowInRegisters<kPieces> y(a.cols, [&](int k, std::uint32_t c) {
    float g[8];
    load_floats(gain + c, g);
#pragma unroll
    for (int i = 0; i < 8; ++i) g[i] = normed(v[k][i], elements.rstd, g[i]);
    return as_words(g);
  });
  clamp_row<tie, output>(y, elements, a, room);
}

struct GatedRow {
  const bf16* gate;
  const bf16* up;
  __device__ __forceinline__ std::uint32_t bits(std::uint32_t c) const {
    return from_float<bf16>(swiglu(to_float(gate[c]), to_float(up[c]))).bits;
  }
};

template <Tie tie, ClampOutput output>
__global__ void __launch_bounds__(kMostLanes, 3)
    swiglu_clamp_kernel(const bf16* gate_up, const __grid_constant__ ClampedRows a) {
  __shared__ ClampRoom room;
  const bf16* row = gate_up + static_cast<std::int64_t>(blockIdx.x) * 2 * a.cols;
  const GatedRow elements{row, row + a.cols};
  BF16Pairs<4> gate[kPieces];
  BF16Pairs<4> up[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {  // all under way before the first is used
    const std::uint32_t c = RowInRegisters<kPieces>::column(k);
    if (c >= a.cols) continue;
    gate[k] = load_pairs<4>(elements.gate + c);
    up[k] = load_pairs<4>(elements.up + c);
  }
  RowInRegisters<kPieces> y(a.cols, [&](int k, std::uint32_t) {
    float g[8];
    float u[8];
    floats_of(gate[k], g);
    floats_of(up[k], u);
#pragma unroll
    for (int i = 0; i < 8; ++i) g[i] = swiglu(g[i], u[i]);
    return as_words(g);
  });
  clamp_row<tie, output>(y, elements, a, room);
}

/// `launch(tie, output, rows, lanes)`, both as types: a kernel with a block a row.
template <class Launch>
QTensor quantize_rows(std::int64_t rows, std::int64_t cols, const QuantSpec& spec, const QuantizeContext& context,
                      Arena& arena, const Launch& launch) {
  const Tensor shape(nullptr, DType::BF16, {rows, cols}, Device::Cuda);
  return quantize_by(shape, spec, context, arena, [&](Job& job, const CsrMatrix& residual) {
    const ClampedLayout layout = ClampedLayout::of(spec.clamp.alpha, cols, kPieces);
    encode_clamped_rows_by(job, residual, layout, [&](auto tie, auto output, const ClampedRows& a) {
      launch(tie, output, a, static_cast<unsigned>(layout.lanes));
    });
  });
}

}  // namespace

QTensor rmsnorm_quantize(const Tensor& x, const Tensor& gain, float eps, const Tensor& rstd, const QuantSpec& spec,
                         const QuantizeContext& context, Arena& arena) {
  const auto* from = device_data<float>(x, "rmsnorm_quantize");
  const auto* g = device_data<float>(gain, "rmsnorm_quantize");
  auto* r = device_data<float>(rstd, "rmsnorm_quantize");
  return quantize_rows(x.rows(), x.cols(), spec, context, arena,
                       [&](auto tie, auto output, const ClampedRows& a, unsigned lanes) {
                         rmsnorm_clamp_kernel<tie, output><<<a.rows, lanes, 0, stream()>>>(from, g, eps, r, a);
                         launched("rmsnorm_clamp_kernel");
                       });
}

QTensor swiglu_quantize(const Tensor& gate_up, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  const auto* from = device_data<bf16>(gate_up, "swiglu_quantize");
  return quantize_rows(gate_up.rows(), gate_up.cols() / 2, spec, context, arena,
                       [&](auto tie, auto output, const ClampedRows& a, unsigned lanes) {
                         swiglu_clamp_kernel<tie, output><<<a.rows, lanes, 0, stream()>>>(from, a);
                         launched("swiglu_clamp_kernel");
                       });
}

}  // namespace nibble::cuda
