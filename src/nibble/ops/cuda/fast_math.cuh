// Elementary functions at the rate of the special function units, for ops that promise float error and no bits.
#pragma once

namespace nibble::cuda {

/// 2^x within 2 ulp, 0 below 2^-126; NaN gives NaN.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// e^x: the rounding of x log2(e) adds |x| ulp or so, so it is meant for x <= 0, where large |x| weighs little.
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * 0x1.715476p+0f); }

/// 1 / (1 + e^-x), 0 below x = -87.3; NaN gives NaN.
__device__ __forceinline__ float sigmoid_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + exp_fast(-x)));
  return y;
}

}  // namespace nibble::cuda
