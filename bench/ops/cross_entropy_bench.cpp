#include <cmath>

#include "bench/memcpy_rate.h"
#include "nibble/ops/cross_entropy.h"

namespace nibble {
namespace {

constexpr std::int64_t kElements = std::int64_t{1} << 25;  // 128 MiB of logits: beyond any cache

struct Problem {
  explicit Problem(std::int64_t vocab)
      : logits(DType::F32, {kElements / vocab, vocab}),
        targets(DType::I32, {kElements / vocab}),
        loss(DType::F32, {kElements / vocab}) {
    for (std::int64_t i = 0; i < logits.view().numel(); ++i) {
      logits.view().data<float>()[i] = 5.0f * std::sin(static_cast<float>(i % 10007));
    }
  }
  OwnedTensor logits, targets, loss;
};

void cross_entropy_forward(benchmark::State& state) {
  const Problem p(state.range(0));
  const bench::TrafficMeter meter;
  for (auto _ : state) cross_entropy_forward(p.logits, p.targets, p.loss);
  meter.report(state, static_cast<double>(p.logits.view().bytes()));
}
BENCHMARK(cross_entropy_forward)->Arg(32000)->Arg(131072)->Unit(benchmark::kMillisecond)->UseRealTime();

// In place, as the model's head does it.
void cross_entropy_forward_backward_f32(benchmark::State& state) {
  const Problem p(state.range(0));
  const bench::TrafficMeter meter;
  for (auto _ : state) cross_entropy_forward_backward(p.logits, p.targets, 1e-3f, p.loss, p.logits);
  meter.report(state, 2.0 * static_cast<double>(p.logits.view().bytes()));
}
BENCHMARK(cross_entropy_forward_backward_f32)->Arg(32000)->Arg(131072)->Unit(benchmark::kMillisecond)->UseRealTime();

void cross_entropy_forward_backward_bf16(benchmark::State& state) {
  const Problem p(state.range(0));
  const OwnedTensor dlogits(DType::BF16, p.logits.view().shape());
  const bench::TrafficMeter meter;
  for (auto _ : state) cross_entropy_forward_backward(p.logits, p.targets, 1e-3f, p.loss, dlogits);
  meter.report(state, 1.5 * static_cast<double>(p.logits.view().bytes()));
}
BENCHMARK(cross_entropy_forward_backward_bf16)->Arg(32000)->Arg(131072)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace nibble
