// Quantisers against memcpy. `of_memcpy` is the time that copying as many bytes takes (half of them read, half
// written, on the same threads, in the same run) over the time of the quantiser. Bytes are those that must move:
// each input read once, each output written once.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "bench/threads.h"
#include "nibble/quant/dge.h"
#include "nibble/quant/quantize.h"
#include "nibble/tensor/parallel.h"
#include "tests/quant/quantiser.h"

namespace nibble {
namespace {

double memcpy_seconds(std::int64_t bytes_moved) {
  const std::int64_t bytes = bytes_moved / 2;
  std::vector<char> from(static_cast<std::size_t>(bytes), 1);
  std::vector<char> to(static_cast<std::size_t>(bytes), 2);
  double best = 1e30;
  for (int round = 0; round < 9; ++round) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(bytes, 1 << 18, [&](std::int64_t b, std::int64_t e) {
      std::memcpy(to.data() + b, from.data() + b, static_cast<std::size_t>(e - b));
    });
    benchmark::DoNotOptimize(to.data());
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

OwnedTensor matrix(DType dtype, std::int64_t rows, std::int64_t cols) {
  OwnedTensor values(DType::F32, {rows, cols});
  std::uint32_t state = 1;
  float* p = values.view().data<float>();
  for (std::int64_t i = 0; i < rows * cols; ++i) {  // the sum of four uniform numbers is near enough to a Gaussian
    float sum = -2.0f;
    for (int k = 0; k < 4; ++k) {
      state = state * 1664525u + 1013904223u;
      sum += uniform24(state);
    }
    p[i] = sum;
  }
  if (dtype == DType::F32) return values;
  OwnedTensor result(dtype, {rows, cols});
  convert(values, result);
  return result;
}

OwnedTensor folds(std::int64_t n) {
  OwnedTensor fold(DType::F32, {n});
  for (std::int64_t i = 0; i < n; ++i) fold.view().data<float>()[i] = 1.0f + 0.001f * static_cast<float>(i % 100);
  return fold;
}

/// Runs f and reports bytes, and the share of memcpy's rate from the best of the timed iterations.
template <class F>
void measure(benchmark::State& state, std::int64_t bytes, F&& f) {
  const double copy = memcpy_seconds(bytes);
  double best = 1e30;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["of_memcpy"] = copy / best;
  state.counters["best_us"] = best * 1e6;
}

struct Folds {
  bool rows = false;
  bool cols = false;
};

void quantise(benchmark::State& state, const QuantSpec& spec, DType input, Folds fold = {}) {
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const bench::Threads threads(state.range(2));
  const OwnedTensor x = matrix(input, rows, cols);
  const OwnedTensor row_fold = folds(rows);
  const OwnedTensor col_fold = folds(cols);
  QuantizeContext context;
  if (fold.rows) context.row_fold = row_fold;
  if (fold.cols) context.col_fold = col_fold;
  std::int64_t bytes = static_cast<std::int64_t>(x.view().bytes()) + rows * cols * element_bits(spec.element) / 8;
  OwnedTensor reference;
  if (spec.rounding == Rounding::Reference) {
    reference = matrix(DType::F32, rows, cols);
    context.reference = reference;
    bytes += static_cast<std::int64_t>(reference.view().bytes());
  }
  Arena arena;
  measure(state, bytes, [&] {
    const ArenaScope scope(arena);
    benchmark::DoNotOptimize(quantize(x, spec, context, arena).codes.raw());
  });
}

QuantSpec token_e2m1(Rounding rounding = Rounding::NearestUp) {
  return quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, rounding);
}
QuantSpec clamped(QuantSpec spec, ResidualMode residual = ResidualMode::Sparse) {
  spec.clamp = {0.99, true, residual};
  return spec;
}
QuantSpec e4m3(Granularity granularity, ScaleRule rule = ScaleRule::Absmax) {
  return quantiser(ElementFormat::E4M3, granularity, rule, Rounding::NearestEven);
}
QuantSpec mxfp4(ScaleRule rule, Rounding rounding = Rounding::NearestEven) {
  return quantiser(ElementFormat::E2M1, Granularity::block(1, 32), rule, rounding);
}
QuantSpec quest() {
  QuantSpec spec = mxfp4(ScaleRule::QuestFloor, Rounding::NearestZero);
  spec.trust_mask = true;
  return spec;
}
QuantSpec nvfp4(Rounding rounding = Rounding::NearestEven, const Nvfp4Scale& scale = {}) {
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4, rounding);
  spec.nvfp4 = scale;
  return spec;
}
QuantSpec tiles(QuantSpec spec) {
  spec.granularity = Granularity::block(16, 16);
  return spec;
}
QuantSpec transposed(QuantSpec spec) {
  spec.transposed = true;
  return spec;
}
QuantSpec rotated(QuantSpec spec, std::int64_t group) {
  spec.hadamard = {group, Hadamard::Signs::Step, false};
  return spec;
}
const Nvfp4Scale kUnbiased = {6.0 * 16 / 17, 448, 0, 0, Selection::None};
const Nvfp4Scale kDouble = {6, 448, 0x1p-9, 128, Selection::None};
const Nvfp4Scale kFourSix = {6, 256, 1, 0, Selection::Mse};
const Nvfp4Scale kEden = {6 / 0.988125, 255.99, 1, 0, Selection::None};

void shapes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t threads : {1, 2}) {
    b->Args({2048, 768, threads});
    b->Args({4096, 4096, threads});
  }
  b->ArgNames({"rows", "cols", "threads"})->Unit(benchmark::kMicrosecond)->UseRealTime();
}

#define NIBBLE_QUANTISE(name, ...) BENCHMARK_CAPTURE(quantise, name, __VA_ARGS__)->Apply(shapes)
NIBBLE_QUANTISE(bf16_rows_e2m1, token_e2m1(), DType::BF16);
NIBBLE_QUANTISE(f32_rows_e2m1, token_e2m1(), DType::F32);
NIBBLE_QUANTISE(bf16_rows_e2m1_transposed, transposed(token_e2m1()), DType::BF16);
NIBBLE_QUANTISE(bf16_rows_e2m1_clamp_sparse, clamped(token_e2m1()), DType::BF16);
NIBBLE_QUANTISE(bf16_rows_e2m1_clamp_dense, clamped(token_e2m1(), ResidualMode::Dense), DType::BF16);
NIBBLE_QUANTISE(bf16_rows_e2m1_stochastic, token_e2m1(Rounding::Stochastic), DType::BF16);
NIBBLE_QUANTISE(bf16_rows_e2m1_stochastic8, token_e2m1(Rounding::Stochastic8), DType::BF16);
NIBBLE_QUANTISE(bf16_rows_e4m3_col_fold, e4m3(Granularity::per_row()), DType::BF16, {false, true});
NIBBLE_QUANTISE(f32_rows_e4m3_col_fold, e4m3(Granularity::per_row()), DType::F32, {false, true});
NIBBLE_QUANTISE(bf16_columns_e4m3_row_fold, e4m3(Granularity::per_column()), DType::BF16, {true, false});
NIBBLE_QUANTISE(f32_columns_e4m3_row_fold, e4m3(Granularity::per_column()), DType::F32, {true, false});
NIBBLE_QUANTISE(bf16_mxfp8, e4m3(Granularity::block(1, 32), ScaleRule::Ceil6), DType::BF16);
NIBBLE_QUANTISE(f32_to_bf16, QuantSpec{}, DType::F32);
NIBBLE_QUANTISE(bf16_mxfp4_ocp, mxfp4(ScaleRule::OcpFloor), DType::BF16);
NIBBLE_QUANTISE(bf16_mxfp4_ceil6, mxfp4(ScaleRule::Ceil6), DType::BF16);
NIBBLE_QUANTISE(f32_mxfp4_ceil6, mxfp4(ScaleRule::Ceil6), DType::F32);
NIBBLE_QUANTISE(f32_mxfp4_ceil6_reference, mxfp4(ScaleRule::Ceil6, Rounding::Reference), DType::F32);
NIBBLE_QUANTISE(bf16_mxfp4_ceil6_stochastic, mxfp4(ScaleRule::Ceil6, Rounding::Stochastic), DType::BF16);
NIBBLE_QUANTISE(bf16_mxfp4_range_match_stochastic_rht64,
                rotated(mxfp4(ScaleRule::RangeMatch34, Rounding::Stochastic), 64), DType::BF16);
NIBBLE_QUANTISE(bf16_quest_rht32, rotated(quest(), 32), DType::BF16);
NIBBLE_QUANTISE(bf16_nvfp4, nvfp4(), DType::BF16);
NIBBLE_QUANTISE(f32_nvfp4, nvfp4(), DType::F32);
NIBBLE_QUANTISE(f32_nvfp4_16x16, tiles(nvfp4()), DType::F32);
NIBBLE_QUANTISE(bf16_nvfp4_transposed, transposed(nvfp4()), DType::BF16);
NIBBLE_QUANTISE(f32_nvfp4_transposed, transposed(nvfp4()), DType::F32);
NIBBLE_QUANTISE(bf16_nvfp4_rht16, rotated(nvfp4(), 16), DType::BF16);
NIBBLE_QUANTISE(bf16_nvfp4_stochastic8, nvfp4(Rounding::Stochastic8, kUnbiased), DType::BF16);
NIBBLE_QUANTISE(bf16_nvfp4_stochastic, nvfp4(Rounding::Stochastic, kUnbiased), DType::BF16);
NIBBLE_QUANTISE(bf16_nvfp4_stochastic8_transposed_rht16, transposed(rotated(nvfp4(Rounding::Stochastic8), 16)),
                DType::BF16);
NIBBLE_QUANTISE(bf16_nvfp4_double_block_stochastic, nvfp4(Rounding::Stochastic, kDouble), DType::BF16);
NIBBLE_QUANTISE(bf16_nvfp4_four_six, nvfp4(Rounding::NearestEven, kFourSix), DType::BF16);
NIBBLE_QUANTISE(f32_nvfp4_four_six_16x16, tiles(nvfp4(Rounding::NearestEven, kFourSix)), DType::F32);
NIBBLE_QUANTISE(bf16_eden_rht128, rotated(nvfp4(Rounding::Eden, kEden), 128), DType::BF16);
NIBBLE_QUANTISE(bf16_eden_transposed_rht128, transposed(rotated(nvfp4(Rounding::Eden, kEden), 128)), DType::BF16);
NIBBLE_QUANTISE(bf16_int4_sawb,
                quantiser(ElementFormat::Int4, Granularity::per_tensor(), ScaleRule::Sawb, Rounding::NearestEven),
                DType::BF16);
NIBBLE_QUANTISE(bf16_luq,
                quantiser(ElementFormat::E3M0, Granularity::per_tensor(), ScaleRule::Absmax, Rounding::Stochastic),
                DType::BF16);

void quality(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const bench::Threads threads(state.range(2));
  const OwnedTensor x = matrix(DType::BF16, rows, cols);
  Arena arena;
  const QTensor q = quantize(x, nvfp4(), {}, arena);
  measure(state, rows * cols * 5 / 2,
          [&] { benchmark::DoNotOptimize(measure_quality(x, q, nvfp4(), {}, arena).noise); });
}
BENCHMARK(quality)->Apply(shapes);

void dge(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const bench::Threads threads(state.range(2));
  const OwnedTensor w = matrix(DType::F32, rows, cols);
  const OwnedTensor dw = matrix(DType::F32, rows, cols);
  Arena arena;
  const QTensor q = quantize(w, token_e2m1(), {}, arena);
  // Gradients are read and written; repeated products would run into subnormals but for f' of 1 on average.
  measure(state, 3 * static_cast<std::int64_t>(w.view().bytes()),
          [&] { dge_apply(dw, w, q, token_e2m1(), 1.0f, 3.0f); });
}
BENCHMARK(dge)->Apply(shapes);

void dequantise(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const bench::Threads threads(state.range(2));
  const OwnedTensor x = matrix(DType::BF16, rows, cols);
  const OwnedTensor out(DType::F32, {rows, cols});
  Arena arena;
  const QTensor q = quantize(x, token_e2m1(), {}, arena);
  measure(state, rows * cols * 9 / 2, [&] { dequantize(q, out); });
}
BENCHMARK(dequantise)->Apply(shapes);

}  // namespace
}  // namespace nibble
