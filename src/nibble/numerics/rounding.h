// The rounding rules that published FP4 recipes use. They differ at midpoints, so the rule is always named.
#pragma once

#include "nibble/numerics/portable.h"

namespace nibble {

/// Tie rule of a round-to-nearest conversion; applies at exact midpoints only.
enum class Tie : std::uint8_t {
  Even,  ///< IEEE, to the even code: hardware cvt.rn, Transformer Engine, qutlass
  Up,    ///< toward +infinity: Wang et al. (appendix A and the released look-up kernel)
  Zero,  ///< toward zero: Quartet's Triton kernels
  Away,  ///< away from zero: Quartet II's Triton kernels
};

/// How a value becomes an element code.
enum class Rounding : std::uint8_t {
  NearestEven,
  NearestUp,
  NearestZero,
  NearestAway,
  Stochastic,   ///< ideal: up with probability (|x|-lo)/(hi-lo), 24 random bits
  Stochastic8,  ///< 8 random bits an element, as cvt.rs.satfinite.e2m1x4.f32 does it
  Eden,         ///< MS-EDEN (Quartet II): nearest-even elements, then block scales times an unbiasing correction,
                ///< rounded stochastically
  Reference,    ///< to the grid neighbour nearer to a reference value, such as the weight's moving average (Q-EMA)
};

/// Whether the result depends on random numbers.
NIBBLE_FN bool is_stochastic(Rounding r) {
  return r == Rounding::Stochastic || r == Rounding::Stochastic8 || r == Rounding::Eden;
}

}  // namespace nibble
