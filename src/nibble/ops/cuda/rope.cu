// Rotary position embedding, bound by memory: query and key heads are read and written once. A thread turns one pack of
// the first half of a head together with its partner in the second half; the tables come from the caches. It computes
// what the CPU does, operation by operation, and so gives the same bits.
#include "nibble/ops/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"
#include "nibble/tensor/device.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;

struct Heads {
  std::uint32_t turned;      // query and key heads of a row
  std::uint32_t half;        // head_dim / 2
  std::uint32_t half_packs;  // packs in half a head
  std::int64_t stride;       // elements of a row
  std::uint32_t seq;
};

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
  float a[kWidth], b[kWidth], c[kWidth], s[kWidth];
  load_floats(a_at, a);
  load_floats(b_at, b);
  load_floats(cos + angle, c);
  load_floats(sin + angle, s);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float turn = direction * s[k];
    const float turned = a[k] * c[k] - b[k] * turn;
    b[k] = a[k] * turn + b[k] * c[k];
    a[k] = turned;
  }
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
  const Heads layout{.turned = static_cast<std::uint32_t>(heads + kv_heads),
                     .half = static_cast<std::uint32_t>(half),
                     .half_packs = 0,
                     .stride = x.cols(),
                     .seq = static_cast<std::uint32_t>(cos.rows())};
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

void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos,
                   const Tensor& sin) {
  rotate(dqkv, heads, kv_heads, cos, sin, -1.0f);
}

}  // namespace nibble::cuda
