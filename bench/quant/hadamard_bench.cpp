// The Hadamard transform, and the row kernels of four-over-six and MS-EDEN, against memcpy on one thread. `row` works
// on a row of 4096 floats that stays in the cache; `tensor` reads a BF16 matrix of 2048 x 4096 and writes another.
// Bytes are the inputs read plus the outputs written.
#include <benchmark/benchmark.h>

#include <vector>

#include "bench/memcpy_rate.h"
#include "bench/threads.h"
#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/eden.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/quant/cpu/four_over_six.h"
#include "nibble/quant/cpu/hadamard.h"

namespace nibble {
namespace {

constexpr std::int64_t kCols = 4096;

std::vector<float> values(std::int64_t n) {
  std::vector<float> y(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = 12 * uniform24(RandomStream{1, 2, 3}.word(i)) - 6;
  return y;
}

Hadamard transform_of(std::int64_t group) { return {group, Hadamard::Signs::Step, false}; }

void hadamard_row(benchmark::State& state) {
  const bench::Threads one(1);
  const quant_cpu::HadamardRow hadamard(transform_of(state.range(0)), {1, 2, 3});
  std::vector<float> y = values(kCols);
  const bench::TrafficMeter meter;
  for (auto _ : state) {
    hadamard.forward(y.data(), kCols);
    benchmark::ClobberMemory();
  }
  meter.report(state, 8.0 * kCols);
}
BENCHMARK(hadamard_row)->RangeMultiplier(2)->Range(2, 256)->UseRealTime();

void hadamard_tensor(benchmark::State& state) {
  const bench::Threads one(1);
  constexpr std::int64_t kRows = 2048;
  const OwnedTensor x(DType::BF16, {kRows, kCols});
  const OwnedTensor out(DType::BF16, {kRows, kCols});
  const bench::TrafficMeter meter;
  for (auto _ : state) hadamard_forward(x, transform_of(state.range(0)), {1, 2, 3}, out);
  meter.report(state, 4.0 * kRows * kCols);
}
BENCHMARK(hadamard_tensor)->Arg(16)->Arg(128)->UseRealTime()->Unit(benchmark::kMillisecond);

void four_over_six_row(benchmark::State& state, Rounding rounding, Selection selection) {
  const bench::Threads one(1);
  const std::int64_t block = state.range(0);
  const std::vector<float> y = values(kCols);
  const auto blocks = static_cast<std::size_t>(kCols / block);
  const std::vector<float> m6(blocks, 1.0f), d6(blocks, 1.0f), m4(blocks, 1 / 1.5f), d4(blocks, 1.5f);
  std::vector<float> err6(blocks), err4(blocks);
  const bench::TrafficMeter meter;
  for (auto _ : state) {
    std::fill(err6.begin(), err6.end(), 0.0f);
    std::fill(err4.begin(), err4.end(), 0.0f);
    quant_cpu::four_over_six_errors(y.data(), kCols, block, rounding, selection, m6.data(), d6.data(), m4.data(),
                                    d4.data(), err6.data(), err4.data());
    benchmark::ClobberMemory();
  }
  meter.report(state, 4.0 * kCols + 24.0 * static_cast<double>(blocks));
}
BENCHMARK_CAPTURE(four_over_six_row, mse, Rounding::NearestEven, Selection::Mse)->Arg(16)->Arg(32)->UseRealTime();
BENCHMARK_CAPTURE(four_over_six_row, max_abs, Rounding::NearestEven, Selection::MaxAbs)->Arg(16)->UseRealTime();
BENCHMARK_CAPTURE(four_over_six_row, mse_away, Rounding::NearestAway, Selection::Mse)->Arg(16)->UseRealTime();

void eden_row(benchmark::State& state) {
  const bench::Threads one(1);
  const std::vector<float> y = values(kCols);
  constexpr std::size_t kBlocks = kCols / 16;
  const std::vector<float> multiplier(kBlocks, 1.0f);
  const std::vector<std::uint8_t> scales(kBlocks, e4m3_encode(200.0f));
  std::vector<std::uint8_t> codes(kCols), out(kBlocks);
  std::vector<std::uint32_t> words(kBlocks);
  for (std::size_t j = 0; j < kBlocks; ++j) words[j] = RandomStream{3, 2, 1}.word(j);
  quant_cpu::encode_e2m1(y.data(), {1.0f}, Rounding::NearestEven, kCols, codes.data());
  const bench::TrafficMeter meter;
  for (auto _ : state) {
    quant_cpu::eden_scales(y.data(), multiplier.data(), codes.data(), kCols, state.range(0), scales.data(),
                           words.data(), out.data());
    benchmark::ClobberMemory();
  }
  meter.report(state, 5.0 * kCols + 10.0 * static_cast<double>(kBlocks));
}
BENCHMARK(eden_row)->Arg(16)->Arg(128)->UseRealTime();

}  // namespace
}  // namespace nibble
