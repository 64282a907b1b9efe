// A block-scaled FP4 product of our own, for GPUs whose tensor cores take such operands by mma.sync (compute capability
// 12.0), where cuBLASLt has none.
#pragma once

#include "nibble/ops/native.h"

namespace nibble::cuda {

/// C[m, n] = factor * device_factor[0] * (sum of blocks, native.h) + addend[m, n]
struct NativeProduct {
  std::int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;         ///< packed codes [m, k / 2], at a multiple of 16 bytes
  const void* b = nullptr;         ///< [n, k / 2]
  const void* a_scales = nullptr;  ///< in tiles of 128 x 4
  const void* b_scales = nullptr;
  float factor = 1.0f;
  const float* device_factor = nullptr;  ///< null = 1
};

/// C is F32 or BF16 [m, n], n even; the addend is undefined, or laid out as C, which it may be. Sums in the tensor
/// cores, factor and addend in F32, one rounding to C's type.
void native_mma(NativeFormat format, const NativeProduct& product, const Tensor& addend, const Tensor& c);

}  // namespace nibble::cuda
