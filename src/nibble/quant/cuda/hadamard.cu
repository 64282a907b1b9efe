// The blockwise Hadamard transform of a matrix. Rows are whole numbers of groups, so that the matrix is one long row. A
// warp takes 256 columns, the longest group, in accesses of 16 bytes that leave no gaps:
//
//   column of the 256    7        6 5 4 3 2    1 0
//                        piece    lane         element of the pack
//
// Levels of strides 1, 2 and 128 lie within a thread, those between cost one shuffle and one multiply-add an element.
// Twenty to thirty instructions an element, half of what fits into the time of its 6 to 8 bytes: bound by memory.
#include "nibble/quant/backend.h"
#include "nibble/quant/cuda/hadamard.h"
#include "nibble/quant/cuda/hadamard_rows.cuh"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPer = 4;
constexpr int kPieces = 2;
constexpr int kPiece = 32 * kPer;          // columns of a warp in one access
constexpr int kOfWarp = kPieces * kPiece;  // the longest group

/// A matrix as one row of n elements; `bits` is its mask or null.
template <class In, class Out>
struct Pass {
  const In* x;
  Out* out;
  const std::uint8_t* bits;
  std::int64_t n;
  std::int64_t cols;
  bool signs_first;
};

/// What an element is multiplied by before the sums and differences (where signs come first) and after them.
struct Factors {
  float before[kPieces][kPer], after[kPieces][kPer];
};

/// Bits 0 to 3: whether elements [at, at + 4) are kept. kWhole: they are there, and rows are multiples of eight.
template <bool kWhole, class In, class Out>
__device__ __forceinline__ unsigned kept_of(const Pass<In, Out>& pass, std::int64_t at) {
  if constexpr (kWhole) return static_cast<unsigned>(pass.bits[at >> 3]) >> (at & 4);
  const std::int64_t stride = (pass.cols + 7) / 8;
  unsigned kept = 0;
  for (int i = 0; i < kPer && at + i < pass.n; ++i) {
    const std::int64_t r = (at + i) / pass.cols;
    const std::int64_t c = at + i - r * pass.cols;
    kept |= (pass.bits[r * stride + c / 8] >> (c % 8) & 1u) << i;
  }
  return kept;
}

__device__ __forceinline__ void sum_and_difference(float& a, float& b) {
  const float sum = a + b;
  b = a - b;
  a = sum;
}

/// The transform of the warp's columns [base, base + 256). kWhole: all of them are there, in aligned packs.
template <bool kWhole, bool kMasked, class In, class Out>
__device__ __forceinline__ void transform(const Pass<In, Out>& pass, const Factors& factors, int group,
                                          std::int64_t base) {
  const int lane = threadIdx.x % 32;
  const std::int64_t first = base + lane * kPer;
  float y[kPieces][kPer];
  unsigned kept[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const std::int64_t at = first + p * kPiece;
    if constexpr (kWhole) {
      cuda::load_floats(pass.x + at, y[p]);
    } else {
      for (int i = 0; i < kPer; ++i) y[p][i] = at + i < pass.n ? to_float(pass.x[at + i]) : 0.0f;
    }
    if constexpr (kMasked) kept[p] = kept_of<kWhole>(pass, at);
  }
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if constexpr (kMasked) y[p][i] = (kept[p] >> i & 1u) != 0 ? y[p][i] : 0.0f;
      if (pass.signs_first) y[p][i] *= factors.before[p][i];
    }
    sum_and_difference(y[p][0], y[p][1]);
    sum_and_difference(y[p][2], y[p][3]);
    if (group > 2) {
      sum_and_difference(y[p][0], y[p][2]);
      sum_and_difference(y[p][1], y[p][3]);
    }
  }
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    if (lanes * kPer >= group) break;
    const float sign = (lane & lanes) != 0 ? -1.0f : 1.0f;  // the upper of a pair has the difference; exact products
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const float other = __shfl_xor_sync(0xFFFF'FFFFu, y[p][i], lanes);
        y[p][i] = __fmaf_rn(y[p][i], sign, other);
      }
    }
  }
  if (group == kOfWarp) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) sum_and_difference(y[0][i], y[1][i]);
  }
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const std::int64_t at = first + p * kPiece;
#pragma unroll
    for (int i = 0; i < kPer; ++i) y[p][i] *= factors.after[p][i];
    if constexpr (kWhole) {
      cuda::store_floats(pass.out + at, y[p]);
    } else {
      for (int i = 0; i < kPer; ++i) {
        if (at + i < pass.n) pass.out[at + i] = from_float<Out>(y[p][i]);
      }
    }
  }
}

/// kPacks: x and out are aligned and rows suit the mask.
template <bool kPacks, bool kMasked, class In, class Out>
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(const __grid_constant__ Pass<In, Out> pass, const __grid_constant__ HadamardFactors signs) {
  // A warp's columns begin at multiples of 256, so an element's place in its group is the same in each turn.
  Factors factors;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int column = (p * kPiece + static_cast<int>(threadIdx.x % 32) * kPer + i) & (signs.group - 1);
      const float sign = (signs.negative[column / 32] >> (column % 32) & 1u) != 0 ? -1.0f : 1.0f;
      factors.before[p][i] = sign;
      factors.after[p][i] = pass.signs_first ? signs.scale : signs.scale * sign;
    }
  }
  constexpr int kWarps = kThreads / 32;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kWarps * kOfWarp;
  std::int64_t base = (static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kOfWarp;
  if constexpr (kPacks) {
    for (; base + kOfWarp <= pass.n; base += stride) transform<true, kMasked>(pass, factors, signs.group, base);
  }
  for (; base < pass.n; base += stride) transform<false, kMasked>(pass, factors, signs.group, base);
}

void transform_rows(const Tensor& x, const Tensor& mask, const Hadamard& transform, const RandomStream& stream,
                    bool signs_first, const Tensor& out) {
  const std::int64_t cols = x.cols();
  const HadamardFactors factors = hadamard_factors(transform, stream);
  require(transform.enabled() && out.rows() == x.rows() && out.cols() == cols,
          "the Hadamard transform of {} into {} by groups of {}", to_string(x), to_string(out), transform.group);
  require(cols % transform.group == 0, "{} columns are not divisible by a Hadamard group of {}", cols, transform.group);
  require(!mask.defined() || (mask.rows() == x.rows() && mask.cols() == (cols + 7) / 8), "mask {} for {}",
          to_string(mask), to_string(x));
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const unsigned grid = cuda::grid_for((n + kOfWarp - 1) / kOfWarp * 32, kThreads);
  const auto* bits = mask.defined() ? cuda::device_data<std::uint8_t>(mask, "the Hadamard transform") : nullptr;
  dispatch_float(x.dtype(), [&]<class In>(In*) {
    dispatch_float(out.dtype(), [&]<class Out>(Out*) {
      const Pass<In, Out> pass{.x = cuda::device_data<In>(x, "the Hadamard transform"),
                               .out = cuda::device_data<Out>(out, "the Hadamard transform"),
                               .bits = bits,
                               .n = n,
                               .cols = cols,
                               .signs_first = signs_first};
      const bool packs = cuda::packs_fit(pass.x, pass.out) && (bits == nullptr || cols % 8 == 0);
      const auto launch = [&](auto kernel) { kernel<<<grid, kThreads, 0, cuda::stream()>>>(pass, factors); };
      if (bits != nullptr) {
        launch(packs ? hadamard_kernel<true, true, In, Out> : hadamard_kernel<false, true, In, Out>);
      } else {
        launch(packs ? hadamard_kernel<true, false, In, Out> : hadamard_kernel<false, false, In, Out>);
      }
    });
  });
  cuda::launched("the Hadamard transform");
}

}  // namespace

void masked_hadamard_inverse(const Tensor& x, const Tensor& mask, const Hadamard& transform, const RandomStream& stream,
                             const Tensor& out) {
  transform_rows(x, mask, transform, stream, transform.signs_last, out);
}

}  // namespace nibble::quant_cuda

namespace nibble::cuda {

void hadamard_forward(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  quant_cuda::transform_rows(x, {}, transform, stream, !transform.signs_last, out);
}

void hadamard_inverse(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out) {
  quant_cuda::transform_rows(x, {}, transform, stream, transform.signs_last, out);
}

}  // namespace nibble::cuda
