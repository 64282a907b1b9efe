// Rotary position embedding, bound by memory: query and key heads are read and written once. A thread turns one pack of
// the first half of a head together with its partner in the second half; the tables come from the caches. It computes
// what the CPU does, operation by operation, and so gives the same bits.
#include "nibble/ops/backend.h"
#include "nibble/quant/cuda/fast_divide.h"
#include "nibble/quant/cuda/magnitudes.cuh"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"
#include "nibble/tensor/device.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;

struct Heads {
  std::uint32_t turned;          // query and key heads of a row
  std::uint32_t half;            // head_dim / 2
  std::uint32_t half_packs = 0;  // packs in half a head
  std::int64_t stride;           // elements of a row
  std::uint32_t seq;
};

/// Of x and its tables, all but the packs.
Heads heads_of(const Tensor& x, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos) {
  return {.turned = static_cast<std::uint32_t>(heads + kv_heads),
          .half = static_cast<std::uint32_t>(cos.cols()),
          .stride = x.cols(),
          .seq = static_cast<std::uint32_t>(cos.rows())};
}

template <int kWidth>
__device__ __forceinline__ void turn(const float* cos, const float* sin, float direction, float (&a)[kWidth],
                                     float (&b)[kWidth]) {
  float c[kWidth], s[kWidth];
  load_floats(cos, c);
  load_floats(sin, s);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float by = direction * s[k];
    const float turned = a[k] * c[k] - b[k] * by;
    b[k] = a[k] * by + b[k] * c[k];
    a[k] = turned;
  }
}

/// `items` packs of consecutive rows from x on, the first of which has position `position`. `direction` is 1 for the
/// rotation, -1 for its transpose.
template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    rotate_kernel(T* x, const float* cos, const float* sin, Heads heads, float direction, std::uint32_t position,
                  std::uint32_t items) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const std::uint32_t head = item / heads.half_packs;
  const std::uint32_t j = (item - head * heads.half_packs) * kWidth;
  const std::uint32_t row = head / heads.turned;
  T* a_at = x + row * heads.stride + std::int64_t{head - row * heads.turned} * 2 * heads.half + j;
  T* b_at = a_at + heads.half;
  const std::int64_t angle = std::int64_t{(position + row) % heads.seq} * heads.half + j;
  float a[kWidth], b[kWidth];
  load_floats(a_at, a);
  load_floats(b_at, b);
  turn(cos + angle, sin + angle, direction, a, b);
  store_floats(a_at, a);
  store_floats(b_at, b);
}

template <int kWidth, class T>
void rotate_typed(T* x, std::int64_t rows, const float* cos, const float* sin, Heads heads, float direction) {
  heads.half_packs = heads.half / kWidth;
  const std::int64_t items_of_row = std::int64_t{heads.turned} * heads.half_packs;
  // Indices within a launch have 32 bits: their divisions are four times as fast.
  const std::int64_t rows_of_launch = std::max<std::int64_t>(1, (std::int64_t{1} << 31) / items_of_row);
  for (std::int64_t first = 0; first < rows; first += rows_of_launch) {
    const auto items = static_cast<std::uint32_t>(std::min(rows_of_launch, rows - first) * items_of_row);
    const std::uint32_t blocks = (items + kThreads - 1) / kThreads;
    rotate_kernel<kWidth><<<blocks, kThreads, 0, stream()>>>(x + first * heads.stride, cos, sin, heads, direction,
                                                             static_cast<std::uint32_t>(first % heads.seq), items);
    launched("rope");
  }
}

void rotate(const Tensor& x, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
            float direction) {
  const std::int64_t half = cos.cols();
  if (x.numel() == 0 || heads + kv_heads == 0) return;
  const auto* c = device_data<float>(cos, "rope");
  const auto* s = device_data<float>(sin, "rope");
  const Heads layout = heads_of(x, heads, kv_heads, cos);
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    constexpr int kWidth = 16 / sizeof(T);
    T* data = device_data<T>(x, "rope");
    if (half % kWidth == 0 && packs_fit(data, c, s)) {
      rotate_typed<kWidth>(data, x.rows(), c, s, layout, direction);
    } else {
      rotate_typed<1>(data, x.rows(), c, s, layout, direction);
    }
  });
}

using namespace quant_cuda;

// Backward in BF16 that raises the magnitudes of all heads, those of values too, which it only reads: strips
// (magnitudes.cuh) of 32 packs of eight columns, a lane with one and its partner in the other half of the head.

struct Strips {
  bf16* x;
  const float* cos;
  const float* sin;
  Heads heads;
  std::uint32_t rows;
  std::uint32_t packs;  ///< in the first halves of a row
  FastDivide of_head;   ///< packs in half a head
  FastDivide across;    ///< strips in a row
  MagnitudesView magnitudes;

  /// Column of the first element of a pack; the stride beyond the last one.
  __device__ __forceinline__ std::uint32_t column(std::uint32_t pack) const {
    if (pack >= packs) return static_cast<std::uint32_t>(heads.stride);
    const std::uint32_t head = of_head.quotient(pack);
    return head * 2 * heads.half + 8 * (pack - head * of_head.divisor());
  }
};

template <bool kFolds>
__global__ void __launch_bounds__(kStripThreads, 2) backward_strips_kernel(const __grid_constant__ Strips v) {
  const std::uint32_t band = v.across.quotient(blockIdx.x);
  const std::uint32_t first_pack = 32 * (blockIdx.x - band * v.across.divisor());
  const std::uint32_t pack = first_pack + threadIdx.x % 32;
  const std::uint32_t first_row = kStripRows * band + kRowsOfWarp * (threadIdx.x / 32);
  const bool inside = pack < v.packs;
  const std::uint32_t c = v.column(pack);
  const std::uint32_t head = v.of_head.quotient(pack);
  const std::uint32_t j = 8 * (pack - head * v.of_head.divisor());
  StripMagnitudes<kFolds, 16> found;
  if (kFolds && inside) {
    found.load_folds(v.magnitudes.col_fold + c, v.heads.half);
  }
  bf16* const column = v.x + c;
  const auto at = [&](std::uint32_t i) { return column + static_cast<std::int64_t>(first_row + i) * v.heads.stride; };
  BF16Pairs<4> next[2];
  const auto load_next = [&](std::uint32_t i) {
    if (i >= kRowsOfWarp || first_row + i >= v.rows || !inside) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) next[half] = load_pairs<4>(at(i) + half * v.heads.half);
  };
  load_next(0);
#pragma unroll 1
  for (std::uint32_t i = 0; i < kRowsOfWarp; ++i) {
    const std::uint32_t r = first_row + i;
    BF16Pairs<4> now[2] = {next[0], next[1]};
    load_next(i + 1);  // before this row is stored, as the compiler takes the two for the same memory
    found.begin_row();
    if (r < v.rows && inside) {
      const float row_fold = kFolds ? __ldg(v.magnitudes.row_fold + r) : 1.0f;
      float x[2][8];
      floats_of(now[0], x[0]);
      floats_of(now[1], x[1]);
      if (head < v.heads.turned) {
        const std::int64_t angle = std::int64_t{r % v.heads.seq} * v.heads.half + j;
        turn(v.cos + angle, v.sin + angle, -1.0f, x[0], x[1]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          now[half] = bf16_pairs(x[half]);
          store_pairs(at(i) + half * v.heads.half, now[half]);
          floats_of(now[half], x[half]);
        }
      }
#pragma unroll
      for (int k = 0; k < 16; ++k) found.take(k, x[k / 8][k % 8], row_fold);
    }
    found.end_row(i);
  }
  found.raise(v.magnitudes, first_row, v.rows, static_cast<std::uint32_t>(v.heads.stride),
              [&](std::uint32_t lane, std::uint32_t k) {
                return first_pack + lane < v.packs ? v.column(first_pack + lane) + k / 8 * v.heads.half + k % 8
                                                   : static_cast<std::uint32_t>(v.heads.stride);
              });
}

/// Whether that was done.
bool backward_by_strips(const Tensor& x, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos,
                        const Tensor& sin, const PairMagnitudes& raise) {
  const std::int64_t half = cos.cols();
  if (x.dtype() != DType::BF16 || half % 8 != 0 || x.rows() >= (std::int64_t{1} << 31)) return false;
  const std::int64_t packs = (heads + 2 * kv_heads) * (half / 8);
  const std::int64_t across = (packs + 31) / 32;
  const Strips v{device_data<bf16>(x, "rope"),
                 device_data<float>(cos, "rope"),
                 device_data<float>(sin, "rope"),
                 heads_of(x, heads, kv_heads, cos),
                 static_cast<std::uint32_t>(x.rows()),
                 static_cast<std::uint32_t>(packs),
                 FastDivide(half / 8),
                 FastDivide(across),
                 MagnitudesView(raise)};
  if (!packs_fit(v.x, v.cos, v.sin, v.magnitudes.col_fold)) return false;
  const auto blocks = static_cast<unsigned>(across * ((x.rows() + kStripRows - 1) / kStripRows));
  if (v.magnitudes.col_fold != nullptr) {
    backward_strips_kernel<true><<<blocks, kStripThreads, 0, stream()>>>(v);
  } else {
    backward_strips_kernel<false><<<blocks, kStripThreads, 0, stream()>>>(v);
  }
  launched("rope");
  return true;
}

}  // namespace

void rope_tables(float theta, const RopeScaling& scaling, const Tensor& cos, const Tensor& sin) {
  const OwnedTensor host_cos(DType::F32, cos.shape());
  const OwnedTensor host_sin(DType::F32, sin.shape());
  cpu::rope_tables(theta, scaling, host_cos, host_sin);
  nibble::copy(host_cos, cos);
  nibble::copy(host_sin, sin);
}

void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin) {
  rotate(qkv, heads, kv_heads, cos, sin, 1.0f);
}

void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
                   const PairMagnitudes& raise) {
  if (raise.defined() && dqkv.numel() > 0 && backward_by_strips(dqkv, heads, kv_heads, cos, sin, raise)) return;
  rotate(dqkv, heads, kv_heads, cos, sin, -1.0f);
  if (raise.defined()) raise_magnitudes(dqkv, raise);
}

}  // namespace nibble::cuda
