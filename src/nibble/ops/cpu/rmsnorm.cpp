#include <cmath>

#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/lanes.h"
#include "nibble/ops/cpu/partial_sums.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

template <class X, class Y>
[[gnu::always_inline]] inline void forward_row(const X* x, const float* gain, float eps, Y* __restrict y, float* rstd,
                                               std::int64_t d) {
  const float squares = lane_sum<float>(
      d, [x](std::int64_t i) __attribute__((always_inline)) {
        const float v = to_float(x[i]);
        return v * v;
      });
  const float r = 1.0f / std::sqrt(squares / static_cast<float>(d) + eps);
  *rstd = r;
  for (std::int64_t i = 0; i < d; ++i) y[i] = from_float<Y>(to_float(x[i]) * r * gain[i]);
}

// Also adds this row's dy x rstd to `dgain`, the partial sum of a chunk of rows.
template <class D, class X>
[[gnu::always_inline]] inline void backward_row(const D* dy, const X* x, const float* gain, float rstd,
                                                float* __restrict dx, float* __restrict dgain, std::int64_t d) {
  const float dot = lane_sum<float>(
      d, [=](std::int64_t i) __attribute__((always_inline)) { return gain[i] * to_float(dy[i]) * to_float(x[i]); });
  const float c = rstd * rstd * (dot / static_cast<float>(d));
  for (std::int64_t i = 0; i < d; ++i) {
    const float g = to_float(dy[i]);
    const float v = to_float(x[i]);
    dx[i] += rstd * (gain[i] * g - v * c);
    dgain[i] += g * (v * rstd);
  }
}

// One clone set for each pair of storage types.
#define NIBBLE_RMSNORM(A, B)                                                                                 \
  NIBBLE_SIMD void forward(const A* x, const float* gain, float eps, B* y, float* rstd, std::int64_t d) {    \
    forward_row(x, gain, eps, y, rstd, d);                                                                   \
  }                                                                                                          \
  NIBBLE_SIMD void backward(const A* dy, const B* x, const float* gain, float rstd, float* dx, float* dgain, \
                            std::int64_t d) {                                                                \
    backward_row(dy, x, gain, rstd, dx, dgain, d);                                                           \
  }
NIBBLE_RMSNORM(float, float)
NIBBLE_RMSNORM(float, bf16)
NIBBLE_RMSNORM(bf16, float)
NIBBLE_RMSNORM(bf16, bf16)
#undef NIBBLE_RMSNORM

}  // namespace

void rmsnorm_forward(const Tensor& x, const Tensor& gain, float eps, const Tensor& y, const Tensor& rstd) {
  const std::int64_t rows = x.rows();
  const std::int64_t d = x.cols();
  const float* g = gain.data<float>();
  float* r = rstd.data<float>();
  dispatch_float(x.dtype(), [&]<class X>(X*) {
    dispatch_float(y.dtype(), [&]<class Y>(Y*) {
      const X* from = x.data<X>();
      Y* to = y.data<Y>();
      const auto bytes = static_cast<std::int64_t>(sizeof(X) + sizeof(Y)) * d;
      parallel_for(rows, rows_per_chunk(bytes), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) forward(from + t * d, g, eps, to + t * d, r + t, d);
      });
    });
  });
}

void rmsnorm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd, const Tensor& dx,
                      const Tensor& dgain, Arena& scratch, const PairMagnitudes& raise) {
  const std::int64_t d = x.cols();
  float* dx_data = dx.data<float>();
  const float* g = gain.data<float>();
  const float* r = rstd.data<float>();
  dispatch_float(dy.dtype(), [&]<class D>(D*) {
    dispatch_float(x.dtype(), [&]<class X>(X*) {
      const D* grad = dy.data<D>();
      const X* value = x.data<X>();
      add_partial_sums(x.rows(), d, dgain.data<float>(), scratch, [&](std::int64_t t, float* sum) {
        backward(grad + t * d, value + t * d, g, r[t], dx_data + t * d, sum, d);
      });
    });
  });
  if (raise.defined()) raise_magnitudes(dx, raise);
}

}  // namespace nibble::cpu
