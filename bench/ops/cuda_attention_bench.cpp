// BF16 attention on the GPU. Flops are those of the causal half alone: forward two products, backward five, of
// seq (seq + 1) / 2 scores by head_dim. Times are the GPU's own, between two events.
#include <benchmark/benchmark.h>

#include <random>

#include "nibble/ops/attention.h"
#include "nibble/ops/cuda/attention_cudnn.h"
#include "nibble/ops/cuda/attention_plain.h"
#include "nibble/tensor/cuda/runtime.h"
#include "nibble/tensor/device.h"

namespace nibble {
namespace {

OwnedTensor random_on_gpu(std::int64_t rows, std::int64_t cols) {
  OwnedTensor x(DType::BF16, {rows, cols});
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
  for (std::int64_t i = 0; i < rows * cols; ++i) x.view().data<bf16>()[i] = bf16_encode(uniform(engine));
  return copy_to(x, Device::Cuda);
}

struct Problem {
  explicit Problem(const AttentionShape& s)
      : shape(s),
        qkv(random_on_gpu(s.batch * s.seq, (s.heads + 2 * s.kv_heads) * s.head_dim)),
        dout(random_on_gpu(s.batch * s.seq, s.heads * s.head_dim)),
        out(DType::BF16, dout.view().shape(), Device::Cuda),
        dqkv(DType::BF16, qkv.view().shape(), Device::Cuda),
        lse(DType::F32, {s.batch * s.heads, s.seq}, Device::Cuda) {
    cuda::attention_backend(s);  // plans are built before the clock runs
    attention_forward(shape, qkv, out, lse, arena);
  }

  AttentionShape shape;
  OwnedTensor qkv, dout, out, dqkv, lse;
  Arena arena{Device::Cuda};
};

enum class Pass { Forward, Backward, DeterministicBackward };

/// False where cuDNN does not take the shape.
bool run_cudnn(Problem& p, Pass pass) {
  if (pass == Pass::Forward) return cuda::cudnn_attention_forward(p.shape, p.qkv, p.out, p.lse, p.arena);
  return cuda::cudnn_attention_backward(p.shape, p.qkv, p.out, p.lse, p.dout, p.dqkv, p.arena,
                                        pass == Pass::DeterministicBackward);
}

bool run_plain(Problem& p, Pass pass) {
  if (pass == Pass::Forward) {
    cuda::plain_attention_forward(p.shape, p.qkv, p.out, p.lse);
  } else {
    cuda::plain_attention_backward(p.shape, p.qkv, p.out, p.lse, p.dout, p.dqkv, p.arena);
  }
  return true;
}

void cuda_attention_bench(benchmark::State& state, bool (*run)(Problem&, Pass), Pass pass) {
  if (cuda_devices() == 0) return state.SkipWithError("no GPU here");
  const AttentionShape shape{state.range(0), state.range(1), state.range(2), state.range(2), state.range(3)};
  Problem p(shape);
  if (!run(p, pass)) return state.SkipWithError(cuda::attention_backend(shape).c_str());
  cudaEvent_t begin{}, end{};
  cuda::check(cudaEventCreate(&begin), "creating an event");
  cuda::check(cudaEventCreate(&end), "creating an event");
  for (auto _ : state) {
    cuda::check(cudaEventRecord(begin, cuda::stream()), "recording an event");
    run(p, pass);
    cuda::check(cudaEventRecord(end, cuda::stream()), "recording an event");
    cuda::check(cudaEventSynchronize(end), "waiting");
    float milliseconds = 0.0f;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin, end), "reading an event");
    state.SetIterationTime(1e-3 * milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  const double scores = static_cast<double>(shape.batch * shape.heads * shape.seq) * (shape.seq + 1) / 2;
  const double flops = 2.0 * (pass == Pass::Forward ? 2 : 5) * scores * shape.head_dim;
  state.counters["flop/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["scratch_MiB"] = static_cast<double>(p.arena.peak_bytes()) / (1 << 20);
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"batch", "seq", "heads", "head_dim"})->Args({8, 2048, 16, 128})->Args({64, 512, 10, 64});
  bench->UseManualTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(cuda_attention_bench, cudnn_forward, run_cudnn, Pass::Forward)->Apply(shapes);
BENCHMARK_CAPTURE(cuda_attention_bench, cudnn_backward, run_cudnn, Pass::Backward)->Apply(shapes);
BENCHMARK_CAPTURE(cuda_attention_bench, cudnn_backward_deterministic, run_cudnn, Pass::DeterministicBackward)
    ->Apply(shapes);
BENCHMARK_CAPTURE(cuda_attention_bench, plain_forward, run_plain, Pass::Forward)->Apply(shapes)->Iterations(3);
BENCHMARK_CAPTURE(cuda_attention_bench, plain_backward, run_plain, Pass::Backward)->Apply(shapes)->Iterations(3);

}  // namespace
}  // namespace nibble
