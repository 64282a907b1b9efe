#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/vector_math.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

template <class X, class Y>
[[gnu::always_inline]] inline void forward_loop(const X* gate, const X* up, Y* y, std::int64_t n) {
#pragma GCC ivdep  // y is neither gate nor up
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = to_float(gate[i]);
    y[i] = from_float<Y>(g * sigmoid_approx(g) * to_float(up[i]));
  }
}

template <class D, class X, class G>
[[gnu::always_inline]] inline void backward_loop(const D* dy, const X* gate, const X* up, G* dgate, G* dup,
                                                 std::int64_t n) {
#pragma GCC ivdep  // dgate may be gate and dup may be up: the same element, read before it is written
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = to_float(gate[i]);
    const float u = to_float(up[i]);
    const float d = to_float(dy[i]);
    const float s = sigmoid_approx(g);
    dgate[i] = from_float<G>(d * u * (s * (1.0f + g * (1.0f - s))));
    dup[i] = from_float<G>(d * (g * s));
  }
}

// target_clones does not apply to templates: one overload for each combination of storage types.
#define NIBBLE_FORWARD_ROW(X, Y) \
  NIBBLE_SIMD void forward_row(const X* gate, const X* up, Y* y, std::int64_t n) { forward_loop(gate, up, y, n); }
NIBBLE_FORWARD_ROW(float, float)
NIBBLE_FORWARD_ROW(float, bf16)
NIBBLE_FORWARD_ROW(bf16, float)
NIBBLE_FORWARD_ROW(bf16, bf16)
#undef NIBBLE_FORWARD_ROW

#define NIBBLE_BACKWARD_ROW(D, X, G)                                                                         \
  NIBBLE_SIMD void backward_row(const D* dy, const X* gate, const X* up, G* dgate, G* dup, std::int64_t n) { \
    backward_loop(dy, gate, up, dgate, dup, n);                                                              \
  }
NIBBLE_BACKWARD_ROW(float, float, float)
NIBBLE_BACKWARD_ROW(float, float, bf16)
NIBBLE_BACKWARD_ROW(float, bf16, float)
NIBBLE_BACKWARD_ROW(float, bf16, bf16)
NIBBLE_BACKWARD_ROW(bf16, float, float)
NIBBLE_BACKWARD_ROW(bf16, float, bf16)
NIBBLE_BACKWARD_ROW(bf16, bf16, float)
NIBBLE_BACKWARD_ROW(bf16, bf16, bf16)
#undef NIBBLE_BACKWARD_ROW

}  // namespace

void swiglu_forward(const Tensor& gate_up, const Tensor& y) {
  const std::int64_t f = y.cols();
  dispatch_float(gate_up.dtype(), [&]<class X>(X*) {
    dispatch_float(y.dtype(), [&]<class Y>(Y*) {
      const X* x = gate_up.data<X>();
      Y* out = y.data<Y>();
      parallel_for(y.rows(), rows_per_chunk(3 * f * 4), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) forward_row(x + t * 2 * f, x + t * 2 * f + f, out + t * f, f);
      });
    });
  });
}

void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up, const PairMagnitudes& raise) {
  const std::int64_t f = dy.cols();
  dispatch_float(dy.dtype(), [&]<class D>(D*) {
    dispatch_float(gate_up.dtype(), [&]<class X>(X*) {
      dispatch_float(d_gate_up.dtype(), [&]<class G>(G*) {
        const D* d = dy.data<D>();
        const X* x = gate_up.data<X>();
        G* dx = d_gate_up.data<G>();
        parallel_for(dy.rows(), rows_per_chunk(5 * f * 4), [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t t = begin; t < end; ++t) {
            const std::int64_t at = t * 2 * f;
            backward_row(d + t * f, x + at, x + at + f, dx + at, dx + at + f, f);
          }
        });
      });
    });
  });
  if (raise.defined()) raise_magnitudes(d_gate_up, raise);
}

}  // namespace nibble::cpu
