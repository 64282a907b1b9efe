#include <cmath>

#include "nibble/ops/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

// Consecutive heads of one token. `direction` is 1 for the rotation, -1 for its transpose.
template <class T>
[[gnu::always_inline]] inline void rotate(T* x, std::int64_t heads, std::int64_t half, const float* cos,
                                          const float* sin, float direction) {
  for (std::int64_t h = 0; h < heads; ++h) {
    T* first = x + h * 2 * half;
    T* second = first + half;
#pragma GCC ivdep  // the halves do not overlap each other or the tables
    for (std::int64_t j = 0; j < half; ++j) {
      const float a = to_float(first[j]);
      const float b = to_float(second[j]);
      const float s = direction * sin[j];
      first[j] = from_float<T>(a * cos[j] - b * s);
      second[j] = from_float<T>(a * s + b * cos[j]);
    }
  }
}

NIBBLE_SIMD void rotate_heads(float* x, std::int64_t heads, std::int64_t half, const float* cos, const float* sin,
                              float direction) {
  rotate(x, heads, half, cos, sin, direction);
}
NIBBLE_SIMD void rotate_heads(bf16* x, std::int64_t heads, std::int64_t half, const float* cos, const float* sin,
                              float direction) {
  rotate(x, heads, half, cos, sin, direction);
}

void rotate_rows(const Tensor& x, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
                 float direction) {
  const std::int64_t half = cos.cols();
  const std::int64_t seq = cos.rows();
  if (x.numel() == 0) return;
  const auto* c = cos.data<float>();
  const auto* s = sin.data<float>();
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    T* data = x.data<T>();
    const std::int64_t stride = x.cols();
    parallel_for(x.rows(), rows_per_chunk(stride * static_cast<std::int64_t>(sizeof(T))),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t t = begin; t < end; ++t) {
                     const std::int64_t position = t % seq;
                     rotate_heads(data + t * stride, heads + kv_heads, half, c + position * half, s + position * half,
                                  direction);
                   }
                 });
  });
}

}  // namespace

void rope_tables(float theta, const RopeScaling& scaling, const Tensor& cos, const Tensor& sin) {
  const std::int64_t half = cos.cols();
  auto* c = cos.data<float>();
  auto* s = sin.data<float>();
  for (std::int64_t j = 0; j < half; ++j) {
    const double frequency = scaled_frequency(
        std::pow(static_cast<double>(theta), -static_cast<double>(j) / static_cast<double>(half)), scaling);
    for (std::int64_t position = 0; position < cos.rows(); ++position) {
      const double angle = static_cast<double>(position) * frequency;
      c[position * half + j] = static_cast<float>(std::cos(angle));
      s[position * half + j] = static_cast<float>(std::sin(angle));
    }
  }
}

void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin) {
  rotate_rows(qkv, heads, kv_heads, cos, sin, 1.0f);
}

void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
                   const PairMagnitudes& raise) {
  rotate_rows(dqkv, heads, kv_heads, cos, sin, -1.0f);
  if (raise.defined()) raise_magnitudes(dqkv, raise);
}

}  // namespace nibble::cpu
