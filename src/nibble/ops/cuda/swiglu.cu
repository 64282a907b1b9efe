// SwiGLU, bound by memory: three (backward: five) times the size of y, read or written once. An element costs about 15
// (backward: 30) instructions, a third of what fits into that time, thanks to the approximate exponential and
// reciprocal. Room for the magnitudes of what backward writes, too.
#include <algorithm>

#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/row_math.cuh"
#include "nibble/quant/cuda/fast_divide.h"
#include "nibble/quant/cuda/magnitudes.cuh"
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
    for (int k = 0; k < kWidth; ++k) out[k] = swiglu(to_float(v.gate.v[k]), to_float(v.up.v[k]));
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
      swiglu_gradients(to_float(v.dy.v[k]), to_float(v.gate.v[k]), to_float(v.up.v[k]), dgate[k], dup[k]);
    }
    G* to = d_gate_up + i + i / f * f;
    store_floats(to, dgate);
    store_floats(to + f, dup);
  }
};

using namespace quant_cuda;

// Backward in BF16 that raises the magnitudes of its result as well: strips (magnitudes.cuh) of 256 columns of dy, a
// lane with eight neighbouring ones and the two gradients of each.

struct BackwardStrips {
  const bf16* dy;
  const bf16* gate_up;
  bf16* d_gate_up;  ///< may be gate_up
  std::uint32_t rows;
  std::uint32_t f;
  MagnitudesView magnitudes;
};

template <bool kFolds>
__global__ void __launch_bounds__(kStripThreads, 2)
    backward_strips_kernel(const __grid_constant__ BackwardStrips a, FastDivide across) {
  const std::uint32_t band = across.quotient(blockIdx.x);
  const std::uint32_t first_col = 256 * (blockIdx.x - band * across.divisor());
  const std::uint32_t c = first_col + 8 * (threadIdx.x % 32);
  const std::uint32_t first_row = kStripRows * band + kRowsOfWarp * (threadIdx.x / 32);
  StripMagnitudes<kFolds, 16> found;
  if (kFolds && c < a.f) {
    found.load_folds(a.magnitudes.col_fold + c, a.f);
  }
  BF16Pairs<4> next[3];
  const auto load_next = [&](std::uint32_t i) {
    const std::uint32_t r = first_row + i;
    if (i >= kRowsOfWarp || r >= a.rows || c >= a.f) return;
    const bf16* gate = a.gate_up + std::int64_t{r} * 2 * a.f + c;
    next[0] = load_pairs<4>(a.dy + std::int64_t{r} * a.f + c);
    next[1] = load_pairs<4>(gate);
    next[2] = load_pairs<4>(gate + a.f);
  };
  load_next(0);
#pragma unroll 1
  for (std::uint32_t i = 0; i < kRowsOfWarp; ++i) {
    const std::uint32_t r = first_row + i;
    float dy[8];
    float gate[8];
    float up[8];
    floats_of(next[0], dy);
    floats_of(next[1], gate);
    floats_of(next[2], up);
    load_next(i + 1);  // before this row is stored, which may be where its gates and ups were
    found.begin_row();
    if (r < a.rows && c < a.f) {
      const float row_fold = kFolds ? __ldg(a.magnitudes.row_fold + r) : 1.0f;
      float d[2][8];
#pragma unroll
      for (int k = 0; k < 8; ++k) swiglu_gradients(dy[k], gate[k], up[k], d[0][k], d[1][k]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const BF16Pairs<4> stored = bf16_pairs(d[half]);
        store_pairs(a.d_gate_up + std::int64_t{r} * 2 * a.f + half * a.f + c, stored);
        floats_of(stored, d[half]);
#pragma unroll
        for (int k = 0; k < 8; ++k) found.take(8 * half + k, d[half][k], row_fold);
      }
    }
    found.end_row(i);
  }
  found.raise(a.magnitudes, first_row, a.rows, 2 * a.f, [&](std::uint32_t lane, std::uint32_t k) {
    const std::uint32_t column = first_col + 8 * lane + k % 8;
    return column < a.f ? column + k / 8 * a.f : 2 * a.f;
  });
}

/// Whether that was done.
bool backward_by_strips(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up, const PairMagnitudes& raise) {
  constexpr const char* kName = "swiglu_backward";
  if (dy.dtype() != DType::BF16 || gate_up.dtype() != DType::BF16 || d_gate_up.dtype() != DType::BF16) return false;
  const BackwardStrips a{device_data<bf16>(dy, kName),          device_data<bf16>(gate_up, kName),
                         device_data<bf16>(d_gate_up, kName),   static_cast<std::uint32_t>(dy.rows()),
                         static_cast<std::uint32_t>(dy.cols()), MagnitudesView(raise)};
  if (a.f % 8 != 0 || !packs_fit(a.dy, a.gate_up, a.d_gate_up, a.magnitudes.col_fold)) return false;
  const std::int64_t across = (dy.cols() + 255) / 256;
  const auto blocks = static_cast<unsigned>(across * ((dy.rows() + kStripRows - 1) / kStripRows));
  if (a.magnitudes.col_fold != nullptr) {
    backward_strips_kernel<true><<<blocks, kStripThreads, 0, stream()>>>(a, FastDivide(across));
  } else {
    backward_strips_kernel<false><<<blocks, kStripThreads, 0, stream()>>>(a, FastDivide(across));
  }
  launched(kName);
  return true;
}

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

void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up, const PairMagnitudes& raise) {
  const std::int64_t f = dy.cols();
  if (dy.numel() == 0 || (raise.defined() && backward_by_strips(dy, gate_up, d_gate_up, raise))) return;
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
  if (raise.defined()) raise_magnitudes(d_gate_up, raise);
}

}  // namespace nibble::cuda
