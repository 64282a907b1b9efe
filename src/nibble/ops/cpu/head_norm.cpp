#include <cmath>

#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/lanes.h"
#include "nibble/ops/cpu/partial_sums.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

// Consecutive heads of one token that share a gain.
template <class T>
[[gnu::always_inline]] inline void forward_heads(T* x, std::int64_t heads, std::int64_t dim, const float* gain,
                                                 float eps, float* rstd) {
  for (std::int64_t h = 0; h < heads; ++h, x += dim) {
    const float squares = lane_sum<float>(
        dim, [x](std::int64_t i) __attribute__((always_inline)) {
          const float v = to_float(x[i]);
          return v * v;
        });
    const float r = 1.0f / std::sqrt(squares / static_cast<float>(dim) + eps);
    rstd[h] = r;
    for (std::int64_t i = 0; i < dim; ++i) x[i] = from_float<T>(to_float(x[i]) * r * gain[i]);
  }
}

// Adds the heads' dy x rstd to `dgain` on the way.
template <class T>
[[gnu::always_inline]] inline void backward_heads(T* dy, const T* x, std::int64_t heads, std::int64_t dim,
                                                  const float* gain, const float* rstd, float* __restrict dgain) {
  for (std::int64_t h = 0; h < heads; ++h, dy += dim, x += dim) {
    const float dot = lane_sum<float>(
        dim, [=](std::int64_t i) __attribute__((always_inline)) { return gain[i] * to_float(dy[i]) * to_float(x[i]); });
    const float r = rstd[h];
    const float c = r * r * (dot / static_cast<float>(dim));
#pragma GCC ivdep  // the gradient does not overlap what was saved
    for (std::int64_t i = 0; i < dim; ++i) {
      const float g = to_float(dy[i]);
      const float v = to_float(x[i]);
      dgain[i] += g * (v * r);
      dy[i] = from_float<T>(r * (gain[i] * g - v * c));
    }
  }
}

// One clone set for each storage type.
#define NIBBLE_HEAD_NORM(T)                                                                                         \
  NIBBLE_SIMD void forward(T* x, std::int64_t heads, std::int64_t dim, const float* gain, float eps, float* rstd) { \
    forward_heads(x, heads, dim, gain, eps, rstd);                                                                  \
  }                                                                                                                 \
  NIBBLE_SIMD void backward(T* dy, const T* x, std::int64_t heads, std::int64_t dim, const float* gain,             \
                            const float* rstd, float* dgain) {                                                      \
    backward_heads(dy, x, heads, dim, gain, rstd, dgain);                                                           \
  }
NIBBLE_HEAD_NORM(float)
NIBBLE_HEAD_NORM(bf16)
#undef NIBBLE_HEAD_NORM

}  // namespace

void head_norm_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains, float eps,
                       const Tensor& before, const Tensor& rstd) {
  const std::int64_t dim = gains.query.numel();
  const std::int64_t all = heads + kv_heads;
  const float* q_gain = gains.query.data<float>();
  const float* k_gain = gains.key.data<float>();
  float* r = rstd.data<float>();
  dispatch_float(qkv.dtype(), [&]<class T>(T*) {
    T* data = qkv.data<T>();
    T* copy = before.data<T>();
    const std::int64_t stride = qkv.cols();
    parallel_for(qkv.rows(), rows_per_chunk(2 * stride * static_cast<std::int64_t>(sizeof(T))),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t t = begin; t < end; ++t) {
                     T* x = data + t * stride;
                     std::copy_n(x, all * dim, copy + t * all * dim);
                     forward(x, heads, dim, q_gain, eps, r + t * all);
                     forward(x + heads * dim, kv_heads, dim, k_gain, eps, r + t * all + heads);
                   }
                 });
  });
}

void head_norm_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains,
                        const Tensor& before, const Tensor& rstd, const HeadGains& dgains, Arena& scratch) {
  const std::int64_t dim = gains.query.numel();
  const std::int64_t all = heads + kv_heads;
  const float* q_gain = gains.query.data<float>();
  const float* k_gain = gains.key.data<float>();
  const float* r = rstd.data<float>();
  const ArenaScope scope(scratch);
  const Tensor both = scratch.allocate(DType::F32, {2 * dim});  // dgain of the queries, then of the keys
  float* sums = both.data<float>();
  std::fill_n(sums, 2 * dim, 0.0f);
  dispatch_float(dqkv.dtype(), [&]<class T>(T*) {
    T* data = dqkv.data<T>();
    const T* x = before.data<T>();
    const std::int64_t stride = dqkv.cols();
    add_partial_sums(dqkv.rows(), 2 * dim, sums, scratch, [&](std::int64_t t, float* sum) {
      T* dy = data + t * stride;
      const T* at = x + t * all * dim;
      backward(dy, at, heads, dim, q_gain, r + t * all, sum);
      backward(dy + heads * dim, at + heads * dim, kv_heads, dim, k_gain, r + t * all + heads, sum + dim);
    });
  });
  add_floats(dgains.query.data<float>(), sums, dim);
  add_floats(dgains.key.data<float>(), sums + dim, dim);
}

}  // namespace nibble::cpu
