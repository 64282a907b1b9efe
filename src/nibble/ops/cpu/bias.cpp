#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/partial_sums.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

template <class T>
[[gnu::always_inline]] inline void add_to_row(T* y, const float* __restrict bias, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = from_float<T>(to_float(y[i]) + bias[i]);
}
template <class T>
[[gnu::always_inline]] inline void add_row(float* __restrict sum, const T* dy, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sum[i] += to_float(dy[i]);
}

NIBBLE_SIMD void forward(float* y, const float* bias, std::int64_t n) { add_to_row(y, bias, n); }
NIBBLE_SIMD void forward(bf16* y, const float* bias, std::int64_t n) { add_to_row(y, bias, n); }
NIBBLE_SIMD void backward(float* sum, const float* dy, std::int64_t n) { add_row(sum, dy, n); }
NIBBLE_SIMD void backward(float* sum, const bf16* dy, std::int64_t n) { add_row(sum, dy, n); }

}  // namespace

void bias_forward(const Tensor& y, const Tensor& bias) {
  const std::int64_t n = y.cols();
  const float* b = bias.data<float>();
  dispatch_float(y.dtype(), [&]<class T>(T*) {
    T* data = y.data<T>();
    parallel_for(y.rows(), rows_per_chunk(n * static_cast<std::int64_t>(sizeof(T))),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t t = begin; t < end; ++t) forward(data + t * n, b, n);
                 });
  });
}

void bias_backward(const Tensor& dy, const Tensor& dbias, Arena& scratch) {
  const std::int64_t n = dy.cols();
  dispatch_float(dy.dtype(), [&]<class T>(T*) {
    const T* data = dy.data<T>();
    add_partial_sums(dy.rows(), n, dbias.data<float>(), scratch,
                     [&](std::int64_t t, float* sum) { backward(sum, data + t * n, n); });
  });
}

}  // namespace nibble::cpu
