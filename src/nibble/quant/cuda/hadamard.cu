// The blockwise Hadamard transform of a matrix. Rows are whole numbers of groups, so that the matrix is one long row. A
// thread takes eight columns in accesses of 16 bytes, a warp 256, the longest group. Bound by memory: three levels lie
// within a thread, the others cost one shuffle an element each.
#include "nibble/quant/backend.h"
#include "nibble/quant/cuda/hadamard_rows.cuh"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPer = 8;

/// kPacks: x and out are aligned. A matrix of groups of 2 or 4 may end within a thread's columns.
template <bool kInverse, bool kPacks, class In, class Out>
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(const In* x, Out* out, const __grid_constant__ quant_cuda::HadamardFactors factors,
                    std::int64_t n) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads * kPer;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t first = thread / 32 * 32 * kPer;  // of the warp, whose lanes stay together
  for (std::int64_t base = first; base < n; base += stride) {
    const std::int64_t at = base + threadIdx.x % 32 * kPer;
    const bool whole = kPacks && at + kPer <= n;
    float y[kPer];
    if (whole) {
      const Pack<In, kPer> pack = load_pack<kPer>(x + at);
#pragma unroll
      for (int i = 0; i < kPer; ++i) y[i] = to_float(pack.v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kPer; ++i) y[i] = at + i < n ? to_float(x[at + i]) : 0.0f;
    }
    const auto column = static_cast<std::uint32_t>(at);  // groups are powers of two: the lower bits tell the place
    if constexpr (kInverse) {
      quant_cuda::hadamard_inverse(y, factors, column);
    } else {
      quant_cuda::hadamard_forward(y, factors, column);
    }
    if (whole) {
      Pack<Out, kPer> pack;
#pragma unroll
      for (int i = 0; i < kPer; ++i) pack.v[i] = from_float<Out>(y[i]);
      store_pack(out + at, pack);
    } else {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (at + i < n) out[at + i] = from_float<Out>(y[i]);
      }
    }
  }
}

template <bool kInverse>
void transform_rows(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  const std::int64_t cols = x.cols();
  const quant_cuda::HadamardFactors factors = quant_cuda::hadamard_factors(transform, stream);
  require(transform.enabled() && out.rows() == x.rows() && out.cols() == cols,
          "the Hadamard transform of {} into {} by groups of {}", to_string(x), to_string(out), transform.group);
  require(cols % transform.group == 0, "{} columns are not divisible by a Hadamard group of {}", cols, transform.group);
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const unsigned grid = grid_for((n + kPer - 1) / kPer, kThreads);
  dispatch_float(x.dtype(), [&]<class In>(In*) {
    dispatch_float(out.dtype(), [&]<class Out>(Out*) {
      const In* from = device_data<In>(x, "the Hadamard transform");
      Out* to = device_data<Out>(out, "the Hadamard transform");
      if (packs_fit(from, to)) {
        hadamard_kernel<kInverse, true><<<grid, kThreads, 0, cuda::stream()>>>(from, to, factors, n);
      } else {
        hadamard_kernel<kInverse, false><<<grid, kThreads, 0, cuda::stream()>>>(from, to, factors, n);
      }
    });
  });
  launched("the Hadamard transform");
}

}  // namespace

void hadamard_forward(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  transform_rows<false>(x, transform, stream, out);
}

void hadamard_inverse(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  transform_rows<true>(x, transform, stream, out);
}

}  // namespace nibble::cuda
