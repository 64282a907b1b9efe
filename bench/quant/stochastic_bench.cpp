// Random words and stochastic rounding against memcpy, one thread: rows of 4096 elements that stay in the cache, so
// the figures are those of the arithmetic. Bytes are the inputs read plus the outputs written.
#include <benchmark/benchmark.h>

#include <vector>

#include "bench/memcpy_rate.h"
#include "bench/threads.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/quant/cpu/stochastic.h"

namespace nibble {
namespace {

constexpr std::int64_t kCols = 4096;

struct Row {
  std::vector<float> y = std::vector<float>(kCols);
  std::vector<std::uint32_t> words = std::vector<std::uint32_t>(kCols);
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(kCols);

  Row() {
    quant_cpu::random_words({1, 2, 3}, 0, kCols, words.data());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = 12 * uniform24(words[i]) - 6;
  }
};

/// Calls f(row) over and over; `bytes` an element are read or written.
template <class F>
void rows(benchmark::State& state, double bytes, F&& f) {
  const bench::Threads one(1);
  Row row;
  const bench::TrafficMeter meter;
  for (auto _ : state) {
    f(row);
    benchmark::ClobberMemory();
  }
  meter.report(state, bytes * kCols);
  state.counters["elements/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * kCols), benchmark::Counter::kIsRate);
}

const RandomStream kStream{0x0123'4567'89AB'CDEFull, 4, 5};

void random_words(benchmark::State& state) {
  rows(state, 4, [](Row& row) { quant_cpu::random_words(kStream, 4096, kCols, row.words.data()); });
}
void random_bytes(benchmark::State& state) {
  rows(state, 1, [](Row& row) { quant_cpu::random_bytes(kStream, 4096, kCols, row.codes.data()); });
}
void e2m1_stochastic(benchmark::State& state) {
  rows(state, 9, [](Row& row) {
    quant_cpu::encode_e2m1_stochastic(row.y.data(), {1.1f}, row.words.data(), kCols, row.codes.data());
  });
}
void int4_stochastic(benchmark::State& state) {
  rows(state, 9, [](Row& row) {
    quant_cpu::encode_int4_stochastic(row.y.data(), {1.1f}, row.words.data(), kCols, row.codes.data());
  });
}
void e3m0_stochastic(benchmark::State& state) {
  rows(state, 9, [](Row& row) {
    quant_cpu::encode_e3m0_stochastic(row.y.data(), {2.1f}, kE3M0LogSteps, row.words.data(), kCols, row.codes.data());
  });
}
BENCHMARK(random_words)->UseRealTime();
BENCHMARK(random_bytes)->UseRealTime();
BENCHMARK(e2m1_stochastic)->UseRealTime();
BENCHMARK(int4_stochastic)->UseRealTime();
BENCHMARK(e3m0_stochastic)->UseRealTime();

}  // namespace
}  // namespace nibble
