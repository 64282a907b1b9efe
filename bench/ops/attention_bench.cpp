// Attention against the machine's multiply-add peak. Flops are those of the causal half alone: forward two products,
// backward five, of seq (seq + 1) / 2 scores by head_dim.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <random>

#include "nibble/ops/attention.h"
#include "nibble/ops/machine.h"

namespace nibble {
namespace {

struct Problem {
  explicit Problem(const benchmark::State& state, DType dtype)
      : shape{state.range(0), state.range(2), state.range(1), state.range(1), state.range(3)},
        qkv(dtype, {shape.batch * shape.seq, 3 * shape.heads * shape.head_dim}),
        dqkv(dtype, {shape.batch * shape.seq, 3 * shape.heads * shape.head_dim}),
        out(dtype, {shape.batch * shape.seq, shape.heads * shape.head_dim}),
        dout(dtype, {shape.batch * shape.seq, shape.heads * shape.head_dim}),
        lse(DType::F32, {shape.batch * shape.heads, shape.seq}) {
    fill(qkv);
    fill(dout);
  }
  static void fill(const Tensor& tensor) {
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
    dispatch_float(tensor.dtype(), [&]<class T>(T*) {
      T* p = tensor.data<T>();
      for (std::int64_t i = 0; i < tensor.numel(); ++i) p[i] = from_float<T>(uniform(engine));
    });
  }
  void report(benchmark::State& state, int products) const {
    const double scores = static_cast<double>(shape.batch * shape.heads * shape.seq) * (shape.seq + 1) / 2;
    const double flops = 2.0 * products * scores * shape.head_dim * state.iterations();
    state.counters["flop/s"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
    state.counters["of_peak"] = benchmark::Counter(flops / machine_peak().f32, benchmark::Counter::kIsRate);
  }

  AttentionShape shape;
  OwnedTensor qkv, dqkv, out, dout, lse;
  Arena arena;
};

void attention_forward_bench(benchmark::State& state, DType dtype) {
  Problem p(state, dtype);
  for (auto _ : state) attention_forward(p.shape, p.qkv, p.out, p.lse, p.arena);
  p.report(state, 2);
}

void attention_backward_bench(benchmark::State& state, DType dtype) {
  Problem p(state, dtype);
  attention_forward(p.shape, p.qkv, p.out, p.lse, p.arena);
  for (auto _ : state) attention_backward(p.shape, p.qkv, p.out, p.lse, p.dout, p.dqkv, p.arena);
  p.report(state, 5);
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"batch", "heads", "seq", "head_dim"})->Args({4, 5, 512, 128})->Args({8, 12, 512, 64});
  bench->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(attention_forward_bench, F32, DType::F32)->Apply(shapes);
BENCHMARK_CAPTURE(attention_forward_bench, BF16, DType::BF16)->Apply(shapes);
BENCHMARK_CAPTURE(attention_backward_bench, F32, DType::F32)->Apply(shapes);
BENCHMARK_CAPTURE(attention_backward_bench, BF16, DType::BF16)->Apply(shapes);

}  // namespace
}  // namespace nibble
