#include <cmath>

#include "bench/memcpy_rate.h"
#include "nibble/ops/rmsnorm.h"

namespace nibble {
namespace {

constexpr std::int64_t kRows = 8192;

OwnedTensor wave(DType dtype, std::int64_t rows, std::int64_t cols) {
  OwnedTensor x(DType::F32, {rows, cols});
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    x.view().data<float>()[i] = std::sin(static_cast<float>(i % 1009));
  }
  OwnedTensor y(dtype, {rows, cols});
  convert(x, y);
  return y;
}

// Residual stream F32 in, BF16 out: what every block of the model does twice.
void rmsnorm_forward_f32_to_bf16(benchmark::State& state) {
  const std::int64_t d = state.range(0);
  const OwnedTensor x = wave(DType::F32, kRows, d);
  const OwnedTensor gain = wave(DType::F32, 1, d);
  const OwnedTensor y(DType::BF16, {kRows, d});
  const OwnedTensor rstd(DType::F32, {kRows});
  const bench::TrafficMeter meter;
  for (auto _ : state) rmsnorm_forward(x, gain, 1e-5f, y, rstd);
  meter.report(state, static_cast<double>(kRows * d * 6));
}
BENCHMARK(rmsnorm_forward_f32_to_bf16)->Arg(768)->Arg(2048)->Unit(benchmark::kMillisecond)->UseRealTime();

void rmsnorm_backward_bf16_f32(benchmark::State& state) {
  const std::int64_t d = state.range(0);
  const OwnedTensor dy = wave(DType::BF16, kRows, d);
  const OwnedTensor x = wave(DType::F32, kRows, d);
  const OwnedTensor gain = wave(DType::F32, 1, d);
  const OwnedTensor rstd = wave(DType::F32, 1, kRows);
  const OwnedTensor dx(DType::F32, {kRows, d});
  const OwnedTensor dgain(DType::F32, {d});
  Arena scratch;
  const bench::TrafficMeter meter;
  for (auto _ : state) rmsnorm_backward(dy, x, gain, rstd, dx, dgain, scratch);
  meter.report(state, static_cast<double>(kRows * d * (2 + 4 + 8)));
}
BENCHMARK(rmsnorm_backward_bf16_f32)->Arg(768)->Arg(2048)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace nibble
