// SwiGLU, bound by memory: three (backward: five) times the size of y, read or written once. An element costs about 15
// (backward: 30) instructions, a third of what fits into that time, thanks to the approximate exponential and
// reciprocal.
#include <algorithm>

#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/fast_math.cuh"
#include "nibble/tensor/cuda/elementwise.cuh"

namespace nibble::cuda {

namespace {

/// 16 bytes of the widest of the types.
template <class... T>
constexpr int kWidthFor = 16 / static_cast<int>(std::max({sizeof(T)...}));

// Element i of y is (t, j) = (i / f, i % f); its gate is element t * 2f + j of gate_up and its up f further. Packs lie
// within a row, as f is a multiple of their width wherever they are wider than one.

template <class X, class Y>
struct Forward {
  static constexpr int kInFlight = 2;
  template <int kWidth>
  struct Values {
    Pack<X, kWidth> gate, up;
  };

  const X* gate_up;
  Y* y;
  std::int64_t f;

  template <int kWidth>
  __device__ void load(std::int64_t i, Values<kWidth>& v) const {
    const X* gate = gate_up + i + i / f * f;
    v.gate = load_pack<kWidth>(gate);
    v.up = load_pack<kWidth>(gate + f);
  }
  template <int kWidth>
  __device__ void store(std::int64_t i, const Values<kWidth>& v) const {
    float out[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float g = to_float(v.gate.v[k]);
      out[k] = g * sigmoid_fast(g) * to_float(v.up.v[k]);
    }
    store_floats(y + i, out);
  }
};

template <class D, class X, class G>
struct Backward {
  static constexpr int kInFlight = 1;
  template <int kWidth>
  struct Values {
    Pack<X, kWidth> gate, up;
    Pack<D, kWidth> dy;
  };

  const D* dy;
  const X* gate_up;
  G* d_gate_up;  // may be gate_up: a thread reads what it overwrites before
  std::int64_t f;

  template <int kWidth>
  __device__ void load(std::int64_t i, Values<kWidth>& v) const {
    const X* gate = gate_up + i + i / f * f;
    v.gate = load_pack<kWidth>(gate);
    v.up = load_pack<kWidth>(gate + f);
    v.dy = load_pack<kWidth>(dy + i);
  }
  template <int kWidth>
  __device__ void store(std::int64_t i, const Values<kWidth>& v) const {
    float dgate[kWidth];
    float dup[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float g = to_float(v.gate.v[k]);
      const float u = to_float(v.up.v[k]);
      const float d = to_float(v.dy.v[k]);
      const float s = sigmoid_fast(g);
      dgate[k] = d * u * (s * (1.0f + g * (1.0f - s)));
      dup[k] = d * (g * s);
    }
    G* to = d_gate_up + i + i / f * f;
    store_floats(to, dgate);
    store_floats(to + f, dup);
  }
};

}  // namespace

void swiglu_forward(const Tensor& gate_up, const Tensor& y) {
  const std::int64_t f = y.cols();
  dispatch_float(gate_up.dtype(), [&]<class X>(X*) {
    dispatch_float(y.dtype(), [&]<class Y>(Y*) {
      constexpr int kWidth = kWidthFor<X, Y>;
      const Forward<X, Y> op{device_data<X>(gate_up, "swiglu"), device_data<Y>(y, "swiglu"), f};
      elementwise<kWidth>(op, y.numel(), f % kWidth == 0 && packs_fit(op.gate_up, op.y), "swiglu_forward");
    });
  });
}

void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up) {
  const std::int64_t f = dy.cols();
  dispatch_float(dy.dtype(), [&]<class D>(D*) {
    dispatch_float(gate_up.dtype(), [&]<class X>(X*) {
      dispatch_float(d_gate_up.dtype(), [&]<class G>(G*) {
        constexpr int kWidth = kWidthFor<D, X, G>;
        const Backward<D, X, G> op{device_data<D>(dy, "swiglu"), device_data<X>(gate_up, "swiglu"),
                                   device_data<G>(d_gate_up, "swiglu"), f};
        elementwise<kWidth>(op, dy.numel(), f % kWidth == 0 && packs_fit(op.dy, op.gate_up, op.d_gate_up),
                            "swiglu_backward");
      });
    });
  });
}

}  // namespace nibble::cuda
