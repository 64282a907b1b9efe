#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/lanes.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kGrain = 1 << 15;  // 128 KiB of F32: hides the scheduling, stays in L2

NIBBLE_SIMD double squares(const float* x, std::int64_t n) {
  return lane_sum<double>(
      n, [x](std::int64_t i) __attribute__((always_inline)) {
        const double v = x[i];
        return v * v;
      });
}

NIBBLE_SIMD double squares(const bf16* x, std::int64_t n) {
  return lane_sum<double>(
      n, [x](std::int64_t i) __attribute__((always_inline)) {
        const double v = bf16_decode(x[i]);
        return v * v;
      });
}

NIBBLE_SIMD void scale(float* x, float factor, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

template <class To, class From>
NIBBLE_SIMD void add(To* to, const From* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = from_float<To>(to_float(to[i]) + to_float(from[i]));
}

// The largest exponent field of a chunk is all ones exactly when something in it is not finite.
constexpr std::uint32_t kExponentF32 = 0x7F80'0000u;
constexpr std::uint16_t kExponentBF16 = 0x7F80u;

NIBBLE_SIMD bool all_finite(const float* x, std::int64_t n) {
  std::uint32_t top = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t e = float_bits(x[i]) & kExponentF32;
    top = e > top ? e : top;
  }
  return top != kExponentF32;
}
NIBBLE_SIMD bool all_finite(const bf16* x, std::int64_t n) {
  std::uint16_t top = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto e = static_cast<std::uint16_t>(x[i].bits & kExponentBF16);
    top = e > top ? e : top;
  }
  return top != kExponentBF16;
}

}  // namespace

double sum_of_squares(const Tensor& x) {
  const float* p = x.data<float>();
  const std::int64_t n = x.numel();
  std::vector<double> partial(static_cast<std::size_t>((n + kGrain - 1) / kGrain));
  parallel_for(n, kGrain, [&](std::int64_t b, std::int64_t e) {
    partial[static_cast<std::size_t>(b / kGrain)] = squares(p + b, e - b);
  });
  double sum = 0;
  for (double v : partial) sum += v;
  return sum;
}

void squares_of_chunks(const Tensor& x, std::int64_t chunk, const Tensor& sums) {
  auto* bytes = sums.data<std::uint8_t>();
  const std::int64_t n = x.numel();
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* p = x.data<T>();
    const std::int64_t at_once = std::max<std::int64_t>(kGrain / chunk, 1);
    parallel_for((n + chunk - 1) / chunk, at_once, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t c = b; c < e; ++c) {
        const double sum = squares(p + c * chunk, std::min(chunk, n - c * chunk));
        std::memcpy(bytes + static_cast<std::size_t>(c) * sizeof(sum), &sum, sizeof(sum));
      }
    });
  });
}

void scale_in_place(const Tensor& x, float factor) {
  float* p = x.data<float>();
  parallel_for(x.numel(), kGrain, [&](std::int64_t b, std::int64_t e) { scale(p + b, factor, e - b); });
}

void add_in_place(const Tensor& to, const Tensor& from) {
  dispatch_float(to.dtype(), [&]<class To>(To*) {
    dispatch_float(from.dtype(), [&]<class From>(From*) {
      To* p = to.data<To>();
      const From* q = from.data<From>();
      parallel_for(to.numel(), kGrain, [&](std::int64_t b, std::int64_t e) { add(p + b, q + b, e - b); });
    });
  });
}

std::int64_t first_non_finite(const Tensor& x) {
  const std::int64_t n = x.numel();
  std::atomic<std::int64_t> first{n};
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* p = x.data<T>();
    parallel_for(n, kGrain, [&](std::int64_t b, std::int64_t e) {
      if (b > first.load(std::memory_order_relaxed) || all_finite(p + b, e - b)) return;
      std::int64_t i = b;
      while (float_is_finite(to_float(p[i]))) ++i;
      for (std::int64_t seen = first.load(); i < seen && !first.compare_exchange_weak(seen, i);) {
      }
    });
  });
  return first == n ? -1 : first.load();
}

}  // namespace nibble::cpu
