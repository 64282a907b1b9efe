#include "nibble/ops/cuda/same_bits.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

/// The last, incomplete word is compared byte by byte.
__global__ void compare(const std::uint32_t* a, const std::uint32_t* b, std::int64_t bytes, int* different) {
  const std::int64_t words = bytes / 4;
  bool differs = false;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < words; i += step) {
    differs |= a[i] != b[i];
  }
  if (blockIdx.x == 0 && threadIdx.x < bytes % 4) {
    const std::int64_t at = 4 * words + threadIdx.x;
    differs |= reinterpret_cast<const std::uint8_t*>(a)[at] != reinterpret_cast<const std::uint8_t*>(b)[at];
  }
  if (differs) *different = 1;
}

}  // namespace

bool same_bits(const void* a, const void* b, std::size_t bytes) {
  const OwnedTensor different(DType::I32, {1}, Device::Cuda);
  const auto n = static_cast<std::int64_t>(bytes);
  compare<<<grid_for(n / 4 + 1, kThreads), kThreads, 0, stream()>>>(static_cast<const std::uint32_t*>(a),
                                                                    static_cast<const std::uint32_t*>(b), n,
                                                                    different.view().data<std::int32_t>());
  launched("same_bits");
  return fetch(different.view().data<std::int32_t>()) == 0;
}

}  // namespace nibble::cuda
