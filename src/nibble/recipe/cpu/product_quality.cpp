#include "nibble/recipe/product_quality.h"

#include <cmath>
#include <vector>

#include "nibble/recipe/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {

namespace {

constexpr std::int64_t kGrain = 1 << 14;
constexpr int kLanes = 8;  // doubles of a vector of 512 bits; fixed, so that every CPU adds in the same order

double total(const double (&lane)[kLanes]) {
  double sum = 0;
  for (const double v : lane) sum += v;
  return sum;
}

template <bool kBefore, class T>
[[gnu::always_inline]] inline ProductQuality compare_elements(const float* exact, const T* computed,
                                                              const float* before, std::int64_t n) {
  double pp[kLanes] = {};
  double qq[kLanes] = {};
  double pq[kLanes] = {};
  double dd[kLanes] = {};
  const auto add = [&](std::int64_t i, int l) __attribute__((always_inline)) {
    const double p = exact[i];
    const double q = static_cast<double>(kBefore ? to_float(computed[i]) - before[i] : to_float(computed[i]));
    pp[l] += p * p;
    qq[l] += q * q;
    pq[l] += p * q;
    dd[l] += (q - p) * (q - p);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) add(i + l, l);
  }
  for (int l = 0; i + l < n; ++l) add(i + l, l);
  return {total(pp), total(qq), total(pq), total(dd), n};
}

NIBBLE_SIMD ProductQuality compare(const float* exact, const float* computed, const float* before, std::int64_t n) {
  return before != nullptr ? compare_elements<true>(exact, computed, before, n)
                           : compare_elements<false>(exact, computed, before, n);
}
NIBBLE_SIMD ProductQuality compare(const float* exact, const bf16* computed, const float* before, std::int64_t n) {
  return before != nullptr ? compare_elements<true>(exact, computed, before, n)
                           : compare_elements<false>(exact, computed, before, n);
}

NIBBLE_SIMD double distances(const float* a, const float* b, std::int64_t n) {
  double lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      lane[l] += std::abs(static_cast<double>(a[i + l]) - static_cast<double>(b[i + l]));
    }
  }
  for (int l = 0; i + l < n; ++l) {
    lane[l] += std::abs(static_cast<double>(a[i + l]) - static_cast<double>(b[i + l]));
  }
  return total(lane);
}

std::size_t chunks_of(std::int64_t n) { return static_cast<std::size_t>((n + kGrain - 1) / kGrain); }

}  // namespace

ProductQuality compare_products(const Tensor& exact, const Tensor& computed, const Tensor& before) {
  require(exact.numel() == computed.numel() && (!before.defined() || before.numel() == exact.numel()),
          "compare_products of {} and {}", to_string(exact), to_string(computed));
  const std::int64_t n = exact.numel();
  const float* p = exact.data<float>();
  const float* b = before.defined() ? before.data<float>() : nullptr;
  std::vector<ProductQuality> parts(chunks_of(n));
  dispatch_float(computed.dtype(), [&]<class T>(T*) {
    const T* q = computed.data<T>();
    parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
      parts[static_cast<std::size_t>(begin / kGrain)] =
          compare(p + begin, q + begin, b == nullptr ? nullptr : b + begin, end - begin);
    });
  });
  ProductQuality sum;
  for (const ProductQuality& part : parts) sum.merge(part);
  return sum;
}

double sum_of_distances(const Tensor& a, const Tensor& b) {
  require(a.numel() == b.numel(), "sum_of_distances of {} and {}", to_string(a), to_string(b));
  const std::int64_t n = a.numel();
  const float* p = a.data<float>();
  const float* q = b.data<float>();
  std::vector<double> parts(chunks_of(n));
  parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    parts[static_cast<std::size_t>(begin / kGrain)] = distances(p + begin, q + begin, end - begin);
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

}  // namespace nibble::cpu
