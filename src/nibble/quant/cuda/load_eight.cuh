// Eight columns of a row, by 16-byte accesses where they can be.
#pragma once

#include "nibble/tensor/cuda/pack.cuh"

namespace nibble::quant_cuda {

/// Columns [c, c + 8) of a row of `cols`, zeros beyond its end. `wide`: the row begins at a multiple of 16 bytes.
__device__ __forceinline__ void load_eight(const bf16* row, std::uint32_t c, std::uint32_t cols, bool wide,
                                           float (&y)[8]) {
  if (wide && c + 8 <= cols) {
    const uint4 raw = __ldg(reinterpret_cast<const uint4*>(row + c));
    const std::uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
    cuda::floats_of(pairs, y);
    return;
  }
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) y[i] = c + i < cols ? bf16_decode(row[c + i]) : 0.0f;
}

__device__ __forceinline__ void load_eight(const float* row, std::uint32_t c, std::uint32_t cols, bool wide,
                                           float (&y)[8]) {
  if (wide && c + 8 <= cols) {
    const float4 low = __ldg(reinterpret_cast<const float4*>(row + c));
    const float4 high = __ldg(reinterpret_cast<const float4*>(row + c + 4));
    y[0] = low.x, y[1] = low.y, y[2] = low.z, y[3] = low.w;
    y[4] = high.x, y[5] = high.y, y[6] = high.z, y[7] = high.w;
    return;
  }
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) y[i] = c + i < cols ? row[c + i] : 0.0f;
}

}  // namespace nibble::quant_cuda
