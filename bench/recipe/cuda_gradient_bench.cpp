// What a gradient passes after its product on the way back through the rounding of an operand: the trust mask together
// with the inverse rotation, and DGE. GB/s of what has to move, and the share of a copy's rate (of_copy).
#include <random>

#include "bench/cuda_rate.h"
#include "nibble/quant/dge.h"
#include "nibble/quant/quantize.h"
#include "nibble/recipe/trust_mask.h"
#include "tests/quant/quantiser.h"

namespace nibble::bench {
namespace {

OwnedTensor normal_on_gpu(std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const OwnedTensor row(DType::F32, {1, cols});
  for (std::int64_t i = 0; i < cols; ++i) row.view().data<float>()[i] = normal(random);
  OwnedTensor x(DType::F32, {rows, cols}, Device::Cuda);
  for (std::int64_t r = 0; r < rows; ++r) copy(row, x.view().row_range(r, r + 1));
  return x;
}

/// One element of 32 is cleared, in every fourth byte.
OwnedTensor mask_on_gpu(std::int64_t rows, std::int64_t cols) {
  const OwnedTensor mask(DType::U8, {rows, cols / 8});
  for (std::int64_t i = 0; i < mask.view().numel(); ++i) {
    mask.view().data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i % 4 == 0 ? ~(1u << i % 7) : 0xFFu);
  }
  return copy_to(mask, Device::Cuda);
}

void rotate_back(benchmark::State& state, DType to, bool masked, bool in_place) {
  if (cuda_devices() == 0) return state.SkipWithError("no GPU here");
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const OwnedTensor x = normal_on_gpu(rows, cols);
  const OwnedTensor mask = mask_on_gpu(rows, cols);
  const OwnedTensor other(to, {rows, cols}, Device::Cuda);
  const Tensor out = in_place ? x.view() : other.view();
  const Tensor bits = masked ? mask.view() : Tensor();
  const Hadamard transform{state.range(2), Hadamard::Signs::Plus, false};
  const double bytes =
      static_cast<double>(x.view().bytes() + out.bytes()) + (masked ? static_cast<double>(bits.bytes()) : 0.0);
  measure_traffic(state, bytes, [&] { masked_hadamard_inverse(x, bits, transform, {1, 2, 3}, out); });
}

void dge(benchmark::State& state) {
  if (cuda_devices() == 0) return state.SkipWithError("no GPU here");
  const OwnedTensor w = normal_on_gpu(state.range(0), state.range(1));
  const OwnedTensor dw = normal_on_gpu(state.range(0), state.range(1));
  const QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax);
  Arena arena(Device::Cuda);
  const QTensor q = quantize(w, spec, {}, arena);
  // Every call scales dw again: it soon holds zeros and infinities, which take no other time.
  measure_traffic(state, 3.0 * static_cast<double>(w.view().bytes()),
                  [&] { dge_apply(dw, w, q, spec, /*k=*/5.0f, /*clip=*/3.0f); });
}

void gradient_shapes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t group : {32, 128}) {
    benchmark->Args({16384, 2048, group})->Args({16384, 5632, group})->Args({11264, 2048, group});
  }
  benchmark->Unit(benchmark::kMicrosecond)->UseManualTime();
}

BENCHMARK_CAPTURE(rotate_back, f32_to_bf16_masked, DType::BF16, true, false)
    ->Name("cuda_rotate_back/f32_to_bf16_masked")
    ->Apply(gradient_shapes);
BENCHMARK_CAPTURE(rotate_back, f32_to_bf16, DType::BF16, false, false)
    ->Name("cuda_rotate_back/f32_to_bf16")
    ->Apply(gradient_shapes);
BENCHMARK_CAPTURE(rotate_back, f32_in_place_masked, DType::F32, true, true)
    ->Name("cuda_rotate_back/f32_in_place_masked")
    ->Apply(gradient_shapes);
BENCHMARK(dge)
    ->Name("cuda_dge/f32_per_row")
    ->Args({11264, 2048})
    ->Args({2048, 5632})
    ->Args({2048, 2048})
    ->Unit(benchmark::kMicrosecond)
    ->UseManualTime();

}  // namespace
}  // namespace nibble::bench
