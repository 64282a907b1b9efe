// The two levels of NVFP4 scales: UE4M3 scales of blocks under F32 scales of the tensor or of stretches of its rows.
#pragma once

#include "nibble/quant/cpu/scales.h"

namespace nibble::quant_cpu {

/// What follows from the amax under one outer scale (Nvfp4Scale in quant_spec.h).
struct OuterScale {
  float decode = 1;  ///< 1 / s_enc
  float factor = 1;  ///< amax of a block times this is its ideal scale
};
OuterScale outer_scale(const Nvfp4Scale& rule, AmaxBits amax);

/// code[j] = E4M3(amax[j] * factor * stretch), zero_code where that is zero; decode[j] the scale with the outer one
/// multiplied in, multiplier[j] its inverse (the largest float where there is none). Four-over-six has stretch 1.5.
void nvfp4_scales(const AmaxBits* amax, std::int64_t n, OuterScale outer, float stretch, std::uint8_t zero_code,
                  std::uint8_t* code, float* decode, float* multiplier);

}  // namespace nibble::quant_cpu
