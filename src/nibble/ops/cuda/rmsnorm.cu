// RMSNorm, bound by memory: every matrix is read or written once. A row lies in the registers of 1 to 16 warps
// (forward: 32), 16 floats a thread, while its sum is taken; one warp needs no barrier for that, and four rows of such
// narrow matrices share a block. Rows of more than 8192 elements (forward: 16,384), or of an odd number, are read twice
// instead.
//
// dgain is a sum over all rows. In backward a fixed number of blocks, whatever the GPU, strides over the rows, each
// with its own partial dgain in registers; a second kernel adds the partials in order. The magnitudes of columns of dx,
// where they are asked for, are kept likewise and raised by those blocks that have a larger one.
#include <type_traits>

#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/partial_sums.h"
#include "nibble/ops/cuda/reduction.cuh"
#include "nibble/ops/cuda/row_math.cuh"
#include "nibble/quant/cuda/magnitudes.cuh"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kFloats = 16;  // of a row, in each thread
constexpr std::int64_t kWidest = 8192;

/// 16 bytes of the wider of the types.
template <class A, class B>
constexpr int kWidthFor = 16 / static_cast<int>(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

/// A block whose rows take kWarps warps each.
template <int kWarps>
struct Rows {
  static constexpr int kInBlock = kWarps == 1 ? 4 : 1;
  static constexpr int kOfRow = 32 * kWarps;
  static constexpr int kThreads = kOfRow * kInBlock;
};

/// Blocks of backward: 16 warps for each of an H100's 132 multiprocessors.
template <int kWarps>
constexpr int kBackwardBlocks = 132 * 512 / Rows<kWarps>::kThreads;

/// Calls f with the number of warps for rows of d elements.
template <class F>
void with_warps(std::int64_t d, F&& f) {
  if (d <= 32 * kFloats) return f(std::integral_constant<int, 1>());
  if (d <= 64 * kFloats) return f(std::integral_constant<int, 2>());
  if (d <= 128 * kFloats) return f(std::integral_constant<int, 4>());
  if (d <= 256 * kFloats) return f(std::integral_constant<int, 8>());
  f(std::integral_constant<int, 16>());
}

template <int kWarps, class X, class Y>
__global__ void __launch_bounds__(Rows<kWarps>::kThreads)
    forward_kernel(const X* x, const float* gain, float eps, Y* y, float* rstd, std::int64_t rows, int d) {
  using R = Rows<kWarps>;
  constexpr int kWidth = kWidthFor<X, Y>;
  constexpr int kPacks = kFloats / kWidth;
  const int thread = threadIdx.x % R::kOfRow;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * R::kInBlock + threadIdx.x / R::kOfRow;
  if (row >= rows) return;  // a whole warp, in blocks that have no barrier
  float v[kPacks][kWidth] = {};
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (thread + p * R::kOfRow) * kWidth;
    if (i < d) load_floats(x + row * d + i, v[p]);
  }
  float squares = 0;
  if constexpr (kWarps == 1) {
    squares = squares_of_warps_row(v);
  } else {
    __shared__ float sums[R::kOfRow * kFloats / 128];
    squares = squares_of_row(v, thread, R::kOfRow, sums);
  }
  const float r = rstd_of(squares, static_cast<float>(d), eps);
  if (thread == 0) rstd[row] = r;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (thread + p * R::kOfRow) * kWidth;
    if (i >= d) continue;
    float g[kWidth];
    load_floats(gain + i, g);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[p][k] = normed(v[p][k], r, g[k]);
    store_floats(y + row * d + i, v[p]);
  }
}

/// Whether backward raises the magnitudes of dx, and of dx times factors.
enum class Raise : std::uint8_t { None, Plain, Folded };

template <Raise raise, int kWarps, class D, class X>
__global__ void __launch_bounds__(Rows<kWarps>::kThreads, 512 / Rows<kWarps>::kThreads)
    backward_kernel(const D* dy, const X* x, const float* gain, const float* rstd, float* dx, float* partial,
                    std::int64_t rows, int d, const __grid_constant__ quant_cuda::MagnitudesView magnitudes) {
  using namespace quant_cuda;
  constexpr bool kRaises = raise != Raise::None;
  constexpr bool kFolds = raise == Raise::Folded;
  using R = Rows<kWarps>;
  constexpr int kWidth = kWidthFor<float, float>;  // that of dx
  constexpr int kPacks = kFloats / kWidth;
  __shared__ float warp_sums[2][kWarps];
  const int thread = threadIdx.x % R::kOfRow;
  const int row_in_block = threadIdx.x / R::kOfRow;
  float g[kPacks][kWidth] = {};
  float total[kPacks][kWidth] = {};
  float most[kRaises ? kPacks : 1][kWidth] = {};
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (thread + p * R::kOfRow) * kWidth;
    if (i < d) load_floats(gain + i, g[p]);
  }

  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * R::kInBlock;
  int turn = 0;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * R::kInBlock + row_in_block; row < rows;
       row += stride, turn ^= 1) {
    const float r = rstd[row];
    float grad[kPacks][kWidth] = {};
    float v[kPacks][kWidth] = {};
    float to[kPacks][kWidth];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (thread + p * R::kOfRow) * kWidth;
      if (i >= d) continue;
      load_floats(dy + row * d + i, grad[p]);
      load_floats(x + row * d + i, v[p]);
      load_floats(dx + row * d + i, to[p]);
    }
    float dot = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) dot = fmaf(g[p][k] * grad[p][k], v[p][k], dot);
    }
    dot = block_sum<kWarps>(dot, warp_sums[turn]);
    const float c = r * r * (dot / static_cast<float>(d));
    float most_of_row = 0;
    const float row_fold = kFolds ? magnitudes.row_fold[row] : 1.0f;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (thread + p * R::kOfRow) * kWidth;
      if (i >= d) continue;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        to[p][k] += r * (g[p][k] * grad[p][k] - v[p][k] * c);
        total[p][k] = fmaf(grad[p][k], v[p][k] * r, total[p][k]);
      }
      store_floats(dx + row * d + i, to[p]);
      if constexpr (kRaises) {
        float fold[kWidth] = {};
        if constexpr (kFolds) load_floats(magnitudes.col_fold + i, fold);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          most_of_row = larger_magnitude(most_of_row, kFolds ? to[p][k] * fold[k] : to[p][k]);
          most[p][k] = larger_magnitude(most[p][k], kFolds ? to[p][k] * row_fold : to[p][k]);
        }
      }
    }
    if constexpr (kRaises) {
      const std::int32_t amax = __reduce_max_sync(0xFFFF'FFFFu, magnitude_bits(most_of_row));
      if (threadIdx.x % 32 == 0) atomicMax(magnitudes.of_rows + row, amax);
    }
  }
  if constexpr (kRaises) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const int i = (thread + p * R::kOfRow) * kWidth + k;
        const std::int32_t amax = magnitude_bits(most[p][k]);
        if (i < d && amax > __ldcg(magnitudes.of_cols + i)) atomicMax(magnitudes.of_cols + i, amax);
      }
    }
  }

  if constexpr (R::kInBlock > 1) {  // the rows' sums, one after the other
    __shared__ float sums[32 * kFloats];
    for (int turn_of = 0; turn_of < R::kInBlock; ++turn_of) {
      if (turn_of == row_in_block) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p) {
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            float& sum = sums[(thread + p * R::kOfRow) * kWidth + k];
            total[p][k] += turn_of == 0 ? 0.0f : sum;
            sum = total[p][k];
          }
        }
      }
      __syncthreads();
    }
    if (row_in_block != R::kInBlock - 1) return;  // the last one has them all
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (thread + p * R::kOfRow) * kWidth;
    if (i < d) store_floats(partial + static_cast<std::int64_t>(blockIdx.x) * d + i, total[p]);
  }
}

// Rows of any width: a block each, element by element, read a second time after the sum.

constexpr int kAnyWarps = 8;
constexpr int kAnyThreads = 32 * kAnyWarps;

template <class X, class Y>
__global__ void __launch_bounds__(kAnyThreads)
    forward_any_kernel(const X* x, const float* gain, float eps, Y* y, float* rstd, std::int64_t d) {
  __shared__ float warp_sums[kAnyWarps];
  const std::int64_t row = blockIdx.x;
  float squares = 0;
  for (std::int64_t i = threadIdx.x; i < d; i += kAnyThreads) {
    const float v = to_float(x[row * d + i]);
    squares = fmaf(v, v, squares);
  }
  squares = block_sum<kAnyWarps>(squares, warp_sums);
  const float r = rstd_of(squares, static_cast<float>(d), eps);
  if (threadIdx.x == 0) rstd[row] = r;
  for (std::int64_t i = threadIdx.x; i < d; i += kAnyThreads) {
    y[row * d + i] = from_float<Y>(normed(to_float(x[row * d + i]), r, gain[i]));
  }
}

template <class D, class X>
__global__ void __launch_bounds__(kAnyThreads)
    backward_any_kernel(const D* dy, const X* x, const float* gain, const float* rstd, float* dx, std::int64_t d) {
  __shared__ float warp_sums[kAnyWarps];
  const std::int64_t row = blockIdx.x;
  float dot = 0;
  for (std::int64_t i = threadIdx.x; i < d; i += kAnyThreads) {
    dot = fmaf(gain[i] * to_float(dy[row * d + i]), to_float(x[row * d + i]), dot);
  }
  dot = block_sum<kAnyWarps>(dot, warp_sums);
  const float r = rstd[row];
  const float c = r * r * (dot / static_cast<float>(d));
  for (std::int64_t i = threadIdx.x; i < d; i += kAnyThreads) {
    dx[row * d + i] += r * (gain[i] * to_float(dy[row * d + i]) - to_float(x[row * d + i]) * c);
  }
}

constexpr int kAnyPartials = 64;

/// partial[b, i] = sum of dy x rstd over rows b, b + 64, ...: a thread for each column.
template <class D, class X>
__global__ void __launch_bounds__(kAnyThreads)
    dgain_any_kernel(const D* dy, const X* x, const float* rstd, float* partial, std::int64_t rows, std::int64_t d) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kAnyThreads + threadIdx.x;
  if (i >= d) return;
  float total = 0;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    total = fmaf(to_float(dy[row * d + i]), to_float(x[row * d + i]) * rstd[row], total);
  }
  partial[blockIdx.y * d + i] = total;
}

/// Whether rows of d elements fit into registers, read in packs; kWidthFor is at most 8.
template <class... P>
bool in_registers(std::int64_t d, std::int64_t widest, const P*... p) {
  return d <= widest && d % 8 == 0 && packs_fit(p...);
}

}  // namespace

void rmsnorm_forward(const Tensor& x, const Tensor& gain, float eps, const Tensor& y, const Tensor& rstd) {
  const std::int64_t rows = x.rows();
  const std::int64_t d = x.cols();
  if (rows == 0) return;
  const auto* g = device_data<float>(gain, "rmsnorm_forward");
  auto* r = device_data<float>(rstd, "rmsnorm_forward");
  dispatch_float(x.dtype(), [&]<class X>(X*) {
    dispatch_float(y.dtype(), [&]<class Y>(Y*) {
      const auto* from = device_data<X>(x, "rmsnorm_forward");
      auto* to = device_data<Y>(y, "rmsnorm_forward");
      if (!in_registers(d, 2 * kWidest, from, g, to)) {
        forward_any_kernel<<<static_cast<unsigned>(rows), kAnyThreads, 0, stream()>>>(from, g, eps, to, r, d);
        return;
      }
      const auto launch = [&]<int kWarps>(std::integral_constant<int, kWarps>) {
        using R = Rows<kWarps>;
        const auto blocks = static_cast<unsigned>((rows + R::kInBlock - 1) / R::kInBlock);
        forward_kernel<kWarps><<<blocks, R::kThreads, 0, stream()>>>(from, g, eps, to, r, rows, static_cast<int>(d));
      };
      d > kWidest ? launch(std::integral_constant<int, 32>()) : with_warps(d, launch);
    });
  });
  launched("rmsnorm_forward");
}

void rmsnorm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd, const Tensor& dx,
                      const Tensor& dgain, Arena& scratch, const PairMagnitudes& raise) {
  const std::int64_t rows = x.rows();
  const std::int64_t d = x.cols();
  if (rows == 0) return;
  const ArenaScope scope(scratch);
  const auto partials_of = [&](std::int64_t count) {
    return device_data<float>(scratch.allocate(DType::F32, {count, d}), "rmsnorm_backward");
  };
  const auto* g = device_data<float>(gain, "rmsnorm_backward");
  const auto* r = device_data<float>(rstd, "rmsnorm_backward");
  auto* to = device_data<float>(dx, "rmsnorm_backward");
  auto* out = device_data<float>(dgain, "rmsnorm_backward");
  dispatch_float(dy.dtype(), [&]<class D>(D*) {
    dispatch_float(x.dtype(), [&]<class X>(X*) {
      const auto* grad = device_data<D>(dy, "rmsnorm_backward");
      const auto* value = device_data<X>(x, "rmsnorm_backward");
      if (!in_registers(d, kWidest, grad, value, g, to)) {
        const dim3 grid(static_cast<unsigned>((d + kAnyThreads - 1) / kAnyThreads),
                        static_cast<unsigned>(std::min<std::int64_t>(rows, kAnyPartials)));
        float* partial = partials_of(grid.y);
        backward_any_kernel<<<static_cast<unsigned>(rows), kAnyThreads, 0, stream()>>>(grad, value, g, r, to, d);
        launched("rmsnorm_backward");
        dgain_any_kernel<<<grid, kAnyThreads, 0, stream()>>>(grad, value, r, partial, rows, d);
        launched("rmsnorm_backward: partial dgain");
        add_partial_sums(partial, static_cast<int>(grid.y), d, out);
        if (raise.defined()) raise_magnitudes(dx, raise);
        return;
      }
      const quant_cuda::MagnitudesView view(raise);
      with_warps(d, [&]<int kWarps>(std::integral_constant<int, kWarps>) {
        using R = Rows<kWarps>;
        const std::int64_t blocks =
            std::min<std::int64_t>((rows + R::kInBlock - 1) / R::kInBlock, kBackwardBlocks<kWarps>);
        float* partial = partials_of(blocks);
        constexpr bool kRaises = std::is_same_v<X, float>;  // of a BF16 stream, which no model has, by another pass
        const auto launch = [&]<Raise kAsked>(std::integral_constant<Raise, kAsked>) {
          constexpr Raise kRaise = kRaises ? kAsked : Raise::None;
          backward_kernel<kRaise, kWarps><<<static_cast<unsigned>(blocks), R::kThreads, 0, stream()>>>(
              grad, value, g, r, to, partial, rows, static_cast<int>(d), view);
        };
        if (!raise.defined()) {
          launch(std::integral_constant<Raise, Raise::None>());
        } else if (view.col_fold == nullptr) {
          launch(std::integral_constant<Raise, Raise::Plain>());
        } else {
          launch(std::integral_constant<Raise, Raise::Folded>());
        }
        launched("rmsnorm_backward");
        add_partial_sums(partial, static_cast<int>(blocks), d, out);
        if (!kRaises && raise.defined()) raise_magnitudes(dx, raise);
      });
    });
  });
}

}  // namespace nibble::cuda
