// Codes back to values. Bound by memory, by the values that are written. A warp takes a row, a lane eight columns of it
// at a time: 4, 8, 16 or 32 bytes of codes under one scale, where blocks are multiples of eight columns.
#include "nibble/quant/backend.h"
#include "nibble/quant/cuda/decode_eight.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::quant_cuda {

namespace {

using cuda::Pack;
using cuda::store_pack;

constexpr int kThreads = 256;
constexpr int kPer = 8;

template <Columns kColumns, class Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const __grid_constant__ DecodeView q, ResidualView residual, Out* out) {
  constexpr int kWarps = kThreads / 32;
  const unsigned lane = threadIdx.x % 32;
  const float all = q.factor();
  for (std::uint32_t r = blockIdx.x * kWarps + threadIdx.x / 32; r < q.rows; r += gridDim.x * kWarps) {
    Out* to = out + static_cast<std::int64_t>(r) * q.cols;
    if constexpr (kColumns == Columns::Single) {
      for (std::uint32_t c = lane; c < q.cols; c += 32) to[c] = from_float<Out>(q.value(r, c, all));
    } else {
#pragma unroll 2
      for (std::uint32_t c = lane * kPer; c < q.cols; c += 32 * kPer) {
        float v[kPer];
        decode_eight<kColumns>(q, r, c, all, v);
        Pack<Out, kPer> pack;
#pragma unroll
        for (int k = 0; k < kPer; ++k) pack.v[k] = from_float<Out>(v[k]);
        store_pack(to + c, pack);
      }
    }
    if (residual.row_begin == nullptr) continue;
    __syncwarp();  // an entry's column was written by another lane
    for (std::int32_t e = residual.row_begin[r] + static_cast<std::int32_t>(lane); e < residual.row_begin[r + 1];
         e += 32) {
      const auto c = static_cast<std::uint32_t>(residual.col[e]);
      to[c] = from_float<Out>(q.value(r, c, all) + residual.value[e]);
    }
  }
}

}  // namespace

}  // namespace nibble::quant_cuda

namespace nibble::cuda {

void dequantize(const QTensor& q, const Tensor& out) {
  using quant_cuda::Columns;
  require(out.rows() == q.rows && out.cols() == q.cols && (out.dtype() == DType::F32 || out.dtype() == DType::BF16),
          "dequantize a [{}, {}] QTensor into {}", q.rows, q.cols, to_string(out));
  if (q.rows * q.cols == 0) return;
  require(q.codes.device() == Device::Cuda, "dequantize codes {}: they should be on the GPU", to_string(q.codes));
  const quant_cuda::DecodeView view(q);
  const quant_cuda::ResidualView residual(q.residual);
  const unsigned grid = grid_for(q.rows * 32, quant_cuda::kThreads);
  dispatch_float(out.dtype(), [&]<class Out>(Out*) {
    Out* to = device_data<Out>(out, "dequantize");
    const auto launch = [&](auto kernel) { kernel<<<grid, quant_cuda::kThreads, 0, stream()>>>(view, residual, to); };
    switch (packs_fit(to) ? quant_cuda::columns_of(q) : Columns::Single) {
      case Columns::Blocks: return launch(quant_cuda::dequantize_kernel<Columns::Blocks, Out>);
      case Columns::Packs: return launch(quant_cuda::dequantize_kernel<Columns::Packs, Out>);
      case Columns::Single: return launch(quant_cuda::dequantize_kernel<Columns::Single, Out>);
    }
  });
  launched("dequantize");
}

}  // namespace nibble::cuda
