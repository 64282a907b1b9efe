// Passes over elements that do not depend on each other, bound by memory: a thread takes a few packs of neighbouring
// elements, a block's width apart, and has all of them on their way before it stores the first.
#pragma once

#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

inline constexpr int kElementwiseThreads = 256;

template <int kWidth, class Op>
__global__ void __launch_bounds__(kElementwiseThreads) elementwise_kernel(Op op, std::int64_t n) {
  typename Op::template Values<kWidth> values[Op::kInFlight];
  const std::int64_t packs = n / kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kElementwiseThreads * Op::kInFlight + threadIdx.x;
#pragma unroll
  for (int u = 0; u < Op::kInFlight; ++u) {
    const std::int64_t pack = first + u * kElementwiseThreads;
    if (pack < packs) op.load(pack * kWidth, values[u]);
  }
#pragma unroll
  for (int u = 0; u < Op::kInFlight; ++u) {
    const std::int64_t pack = first + u * kElementwiseThreads;
    if (pack < packs) op.store(pack * kWidth, values[u]);
  }
  if constexpr (kWidth > 1) {
    const std::int64_t rest = packs * kWidth + threadIdx.x;
    if (blockIdx.x == 0 && rest < n) {
      typename Op::template Values<1> value;
      op.load(rest, value);
      op.store(rest, value);
    }
  }
}

/// An Op has a template Values<kWidth> of what is read for kWidth elements, load(i, values) and store(i, values) for
/// elements [i, i + kWidth), and kInFlight, the number of packs that a thread takes. `packed`: all addresses suit packs
/// of kWidth.
template <int kWidth, class Op>
void elementwise(const Op& op, std::int64_t n, bool packed, const char* name) {
  if (n == 0) return;
  const std::int64_t packs = packed ? (n + kWidth - 1) / kWidth : n;
  const auto blocks =
      static_cast<unsigned>((packs + kElementwiseThreads * Op::kInFlight - 1) / (kElementwiseThreads * Op::kInFlight));
  if (packed) {
    elementwise_kernel<kWidth><<<blocks, kElementwiseThreads, 0, stream()>>>(op, n);
  } else {
    elementwise_kernel<1><<<blocks, kElementwiseThreads, 0, stream()>>>(op, n);
  }
  launched(name);
}

}  // namespace nibble::cuda
