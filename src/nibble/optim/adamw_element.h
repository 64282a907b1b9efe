// The AdamW update of one parameter, shared by the storage variants and the devices so that they differ in storage
// alone.
#pragma once

#include <cmath>

#include "nibble/optim/adamw.h"

#if defined(__CUDACC__)
#define NIBBLE_ADAMW_FN __host__ __device__ __forceinline__
#else
#define NIBBLE_ADAMW_FN [[gnu::always_inline]] inline
#endif

namespace nibble {

/// The factors of a step that are the same for every element; computed in double, used in float.
struct AdamWFactors {
  float grad_scale;
  float beta1, rest1;  ///< b1, 1 - b1
  float beta2, rest2;
  float decay;      ///< 1 - lr wd
  float step_size;  ///< lr / (1 - b1^t)
  float inv_sqrt;   ///< 1 / sqrt(1 - b2^t)
  float eps;
};

inline AdamWFactors adamw_factors(const AdamWStep& s) {
  require(s.t >= 1, "AdamW steps are counted from 1, not {}", s.t);
  const double beta1 = s.beta1;
  const double beta2 = s.beta2;
  const double lr = s.lr;
  const auto t = static_cast<double>(s.t);
  return {s.grad_scale,
          s.beta1,
          static_cast<float>(1 - beta1),
          s.beta2,
          static_cast<float>(1 - beta2),
          static_cast<float>(1 - lr * s.weight_decay),
          static_cast<float>(lr / (1 - std::pow(beta1, t))),
          static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t))),
          s.eps};
}

NIBBLE_ADAMW_FN void adamw_element(const AdamWFactors& f, float grad, float& p, float& m, float& v) {
  const float g = grad * f.grad_scale;
  m = f.beta1 * m + f.rest1 * g;
  v = f.beta2 * v + f.rest2 * g * g;
  p = p * f.decay - f.step_size * (m / (std::sqrt(v) * f.inv_sqrt + f.eps));
}

}  // namespace nibble
