#include <cmath>

#include "bench/memcpy_rate.h"
#include "nibble/optim/adamw.h"

namespace nibble {
namespace {

constexpr std::int64_t kParameters = std::int64_t{1} << 24;

OwnedTensor wave(float amplitude) {
  OwnedTensor x(DType::F32, {kParameters});
  for (std::int64_t i = 0; i < kParameters; ++i) {
    x.view().data<float>()[i] = amplitude * std::sin(static_cast<float>(i % 10007));
  }
  return x;
}

// F32 states: 16 bytes read and 12 written a parameter.
void adamw(benchmark::State& state) {
  const OwnedTensor param = wave(0.02f);
  const OwnedTensor grad = wave(1e-3f);
  const OwnedTensor m(DType::F32, {kParameters});
  const OwnedTensor v(DType::F32, {kParameters});
  AdamWStep step{.lr = 1e-4f};
  const bench::TrafficMeter meter;
  for (auto _ : state) {
    adamw_step(param, grad, m, v, step);
    ++step.t;
  }
  meter.report(state, 28.0 * kParameters);
}
BENCHMARK(adamw)->Unit(benchmark::kMillisecond)->UseRealTime();

// FP8-LM states: 9 bytes read for the amax, 9 read and 9 written to requantise.
void adamw_fp8(benchmark::State& state) {
  const OwnedTensor param = wave(0.02f);
  const OwnedTensor grad = wave(1e-3f);
  const OwnedTensor master_data(DType::F16, {kParameters});
  const OwnedTensor m_data(DType::U8, {kParameters});
  const OwnedTensor v_data(DType::F16, {kParameters});
  const OwnedTensor scales(DType::F32, {3, 1});
  const ScaledTensor master{master_data, scales.view().row_range(0, 1)};
  const ScaledTensor m{m_data, scales.view().row_range(1, 2)};
  const ScaledTensor v{v_data, scales.view().row_range(2, 3)};
  scaled_store(param, master);
  Arena scratch;
  AdamWStep step{.lr = 1e-4f};
  const bench::TrafficMeter meter;
  for (auto _ : state) {
    adamw_fp8_step(param, grad, master, m, v, step, scratch);
    ++step.t;
  }
  meter.report(state, 27.0 * kParameters);
}
BENCHMARK(adamw_fp8)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace nibble
