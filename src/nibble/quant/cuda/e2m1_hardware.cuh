// Blackwell's conversion of two floats to E2M1 at a time. It is an instruction of these GPUs alone, not of all that
// follow. (Their stochastic one takes eight random bits an element, not the 24 of numerics/e2m1.h, so it is not used.)
#pragma once

#include <cstdint>

namespace nibble::quant_cuda {

#if defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
inline constexpr bool kHasE2m1Conversion = true;

/// Eight codes by e2m1_encode<Tie::Even>: saturating, the sign kept on zero, NaN to +6. The first source of the
/// instruction goes to the upper nibble.
__device__ __forceinline__ std::uint32_t e2m1_converted_eight(const float (&z)[8]) {
  std::uint32_t codes;
  asm("{.reg .b8 b0, b1, b2, b3;\n\t"
      "cvt.rn.satfinite.e2m1x2.f32 b0, %2, %1;\n\t"
      "cvt.rn.satfinite.e2m1x2.f32 b1, %4, %3;\n\t"
      "cvt.rn.satfinite.e2m1x2.f32 b2, %6, %5;\n\t"
      "cvt.rn.satfinite.e2m1x2.f32 b3, %8, %7;\n\t"
      "mov.b32 %0, {b0, b1, b2, b3};}"
      : "=r"(codes)
      : "f"(z[0]), "f"(z[1]), "f"(z[2]), "f"(z[3]), "f"(z[4]), "f"(z[5]), "f"(z[6]), "f"(z[7]));
  return codes;
}
#else
inline constexpr bool kHasE2m1Conversion = false;
__device__ std::uint32_t e2m1_converted_eight(const float (&z)[8]);  // nowhere called
#endif

}  // namespace nibble::quant_cuda
