// Sums over the threads of a warp or of a group of warps, in an order that only the shape of the group decides.
#pragma once

#include <cstdint>

namespace nibble::cuda {

/// The sum of a warp, the same bits in each of its lanes: in every round both partners add the same two values.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFF'FFFFu, x, offset);
  return x;
}

/// The sum over a block of kWarps warps, in each of its threads. `shared` is not to be written again before the block's
/// next barrier but one: callers in a loop alternate between two.
template <int kWarps>
__device__ __forceinline__ float block_sum(float x, float (&shared)[kWarps]) {
  x = warp_sum(x);
  if constexpr (kWarps > 1) {
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) x += shared[w];
  }
  return x;
}

}  // namespace nibble::cuda
