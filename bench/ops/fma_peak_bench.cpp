#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "bench/ops/fma_peak.h"

// Registers of unknown length cannot stand in an array.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/ops/fma_peak_bench.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace nibble {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Twelve independent chains: more than the latency of four cycles on two units needs, and few enough for sixteen
// registers.
constexpr int kChains = 12;

// Returns the number of floating-point operations.
double multiply_adds(std::int64_t count, float* result) {
  const hn::CappedTag<float, 16> d;
  hn::Vec<decltype(d)> sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = hn::Set(d, static_cast<float>(c));
  const auto x = hn::Set(d, 0.999f);
  for (std::int64_t i = 0; i < count; ++i) {
    for (int c = 0; c < kChains; ++c) sum[c] = hn::MulAdd(sum[c], x, x);
  }
  for (int c = 0; c < kChains; ++c) hn::StoreU(sum[c], d, result + c * 16);
  return 2.0 * static_cast<double>(count) * kChains * static_cast<double>(hn::Lanes(d));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace nibble
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble {

HWY_EXPORT(multiply_adds);

namespace bench {

double fma_peak() {
  float result[12 * 16];
  double best = 0;
  for (int repeat = 0; repeat < 50; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    const double operations = HWY_DYNAMIC_DISPATCH(multiply_adds)(20000, result);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    benchmark::DoNotOptimize(result[0]);
    best = std::max(best, operations / time.count());
  }
  return best;
}

}  // namespace bench

namespace {

void fma_peak_bench(benchmark::State& state) {
  double peak = 0;
  for (auto _ : state) peak = std::max(peak, bench::fma_peak());
  state.counters["flop/s"] = peak;
}
BENCHMARK(fma_peak_bench)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace nibble
#endif  // HWY_ONCE
