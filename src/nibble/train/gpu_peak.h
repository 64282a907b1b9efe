// How fast this GPU multiplies matrices: the "speed of light" that rates are compared with.
#pragma once

namespace nibble {

/// Rates that large products reach (8192 x 8192 x 8192, F32 4096 x 4096 x 4096; the best of several runs), in
/// operations a second, a multiply-add counting two. Measured once a process, in 0.4 GiB of memory that is given back.
struct GpuPeak {
  double bf16 = 0;
  double fp8 = 0;  ///< E4M3 under one scale a row of either operand; 0 where the GPU has no FP8 tensor cores
  double f32 = 0;  ///< without TF32
};
/// Throws UserError where there is no GPU.
const GpuPeak& gpu_peak();

}  // namespace nibble
