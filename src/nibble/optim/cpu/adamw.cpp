#include "nibble/optim/adamw.h"

#include "nibble/optim/adamw_element.h"
#include "nibble/optim/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

NIBBLE_SIMD void update(float* __restrict p, const float* grad, float* __restrict m, float* __restrict v,
                        AdamWFactors f, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) adamw_element(f, grad[i], p[i], m[i], v[i]);
}

}  // namespace

void adamw_step(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const AdamWStep& step) {
  const std::int64_t n = param.numel();
  const AdamWFactors factors = adamw_factors(step);
  float* p = param.data<float>();
  const float* g = grad.data<float>();
  float* first = m.data<float>();
  float* second = v.data<float>();
  parallel_for(n, 1 << 14,
               [&](std::int64_t b, std::int64_t e) { update(p + b, g + b, first + b, second + b, factors, e - b); });
}

}  // namespace nibble::cpu
