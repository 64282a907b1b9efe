// SwiGLU against memory bandwidth. Bytes are those read and written once; `of_memcpy` is the rate relative to a
// memcpy, which also reads and writes, of as many bytes in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "nibble/ops/swiglu.h"

namespace nibble {
namespace {

void fill(const Tensor& tensor) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-4.0f, 4.0f);
  dispatch_float(tensor.dtype(), [&]<class T>(T*) {
    T* p = tensor.data<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) p[i] = from_float<T>(uniform(engine));
  });
}

double copy_rate(std::size_t bytes) {
  const auto half = static_cast<std::int64_t>(bytes / 2);
  const OwnedTensor from(DType::U8, {half});
  const OwnedTensor to(DType::U8, {half});
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    convert(from, to);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(2 * half) / time.count());
  }
  return best;
}

void report(benchmark::State& state, std::size_t bytes) {
  const double moved = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.counters["B/s"] = benchmark::Counter(moved, benchmark::Counter::kIsRate);
  state.counters["of_memcpy"] = benchmark::Counter(moved / copy_rate(bytes), benchmark::Counter::kIsRate);
}

void swiglu_forward_bench(benchmark::State& state, DType dtype) {
  const OwnedTensor gate_up(dtype, {state.range(0), 2 * state.range(1)});
  const OwnedTensor y(dtype, {state.range(0), state.range(1)});
  fill(gate_up);
  for (auto _ : state) swiglu_forward(gate_up, y);
  report(state, gate_up.view().bytes() + y.view().bytes());
}

void swiglu_backward_bench(benchmark::State& state, DType dtype) {
  const OwnedTensor gate_up(dtype, {state.range(0), 2 * state.range(1)});
  const OwnedTensor d_gate_up(dtype, {state.range(0), 2 * state.range(1)});
  const OwnedTensor dy(dtype, {state.range(0), state.range(1)});
  fill(gate_up);
  fill(dy);
  for (auto _ : state) swiglu_backward(dy, gate_up, d_gate_up);
  report(state, gate_up.view().bytes() + d_gate_up.view().bytes() + dy.view().bytes());
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"tokens", "width"})->Args({4096, 2048})->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(swiglu_forward_bench, F32, DType::F32)->Apply(shapes);
BENCHMARK_CAPTURE(swiglu_forward_bench, BF16, DType::BF16)->Apply(shapes);
BENCHMARK_CAPTURE(swiglu_backward_bench, F32, DType::F32)->Apply(shapes);
BENCHMARK_CAPTURE(swiglu_backward_bench, BF16, DType::BF16)->Apply(shapes);

}  // namespace
}  // namespace nibble
