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

void quantise(benchmark::State& state, const QuantSpec& spec, DType input, bool fold_rows, bool fold_cols) {
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const bench::Threads threads(state.range(2));
  const OwnedTensor x = matrix(input, rows, cols);
  const OwnedTensor row_fold = folds(rows);
  const OwnedTensor col_fold = folds(cols);
  QuantizeContext context;
  if (fold_rows) context.row_fold = row_fold;
  if (fold_cols) context.col_fold = col_fold;
  Arena arena;
  const std::int64_t bytes = static_cast<std::int64_t>(x.view().bytes()) + rows * cols * element_bits(spec.element) / 8;
  measure(state, bytes, [&] {
    const ArenaScope scope(arena);
    benchmark::DoNotOptimize(quantize(x, spec, context, arena).codes.raw());
  });
}

constexpr QuantSpec token_e2m1(Rounding rounding = Rounding::NearestUp) {
  return {ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, rounding, {}, false, ElementFormat::BF16};
}
QuantSpec clamped(QuantSpec spec) {
  spec.clamp = {0.99, true, ResidualMode::Sparse};
  return spec;
}
constexpr QuantSpec e4m3(Granularity granularity) {
  return {ElementFormat::E4M3, granularity, ScaleRule::Absmax, Rounding::NearestEven, {}, false, ElementFormat::BF16};
}
constexpr QuantSpec block(std::int64_t rows, std::int64_t cols, ScaleRule rule, Rounding rounding) {
  return {ElementFormat::E2M1, Granularity::block(rows, cols), rule, rounding, {}, false, ElementFormat::BF16};
}
constexpr QuantSpec to_bf16() {
  return {ElementFormat::BF16, Granularity::per_row(), ScaleRule::None, Rounding::NearestEven, {}, false,
          ElementFormat::BF16};
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t threads : {1, 2}) {
    b->Args({2048, 768, threads});
    b->Args({4096, 4096, threads});
  }
  b->ArgNames({"rows", "cols", "threads"})->Unit(benchmark::kMicrosecond)->UseRealTime();
}

#define NIBBLE_QUANTISE(name, ...) BENCHMARK_CAPTURE(quantise, name, __VA_ARGS__)->Apply(shapes)
NIBBLE_QUANTISE(bf16_rows_e2m1, token_e2m1(), DType::BF16, false, false);
NIBBLE_QUANTISE(f32_rows_e2m1, token_e2m1(), DType::F32, false, false);
NIBBLE_QUANTISE(bf16_rows_e2m1_clamp_sparse, clamped(token_e2m1()), DType::BF16, false, false);
NIBBLE_QUANTISE(bf16_rows_e2m1_stochastic, token_e2m1(Rounding::Stochastic), DType::BF16, false, false);
NIBBLE_QUANTISE(bf16_rows_e2m1_stochastic8, token_e2m1(Rounding::Stochastic8), DType::BF16, false, false);
NIBBLE_QUANTISE(bf16_rows_e4m3_col_fold, e4m3(Granularity::per_row()), DType::BF16, false, true);
NIBBLE_QUANTISE(f32_rows_e4m3_col_fold, e4m3(Granularity::per_row()), DType::F32, false, true);
NIBBLE_QUANTISE(bf16_columns_e4m3_row_fold, e4m3(Granularity::per_column()), DType::BF16, true, false);
NIBBLE_QUANTISE(f32_columns_e4m3_row_fold, e4m3(Granularity::per_column()), DType::F32, true, false);
NIBBLE_QUANTISE(f32_to_bf16, to_bf16(), DType::F32, false, false);
NIBBLE_QUANTISE(bf16_mxfp4, block(1, 32, ScaleRule::Ceil6, Rounding::NearestEven), DType::BF16, false, false);
NIBBLE_QUANTISE(bf16_nvfp4, block(1, 16, ScaleRule::Nvfp4, Rounding::NearestEven), DType::BF16, false, false);
NIBBLE_QUANTISE(f32_nvfp4_16x16, block(16, 16, ScaleRule::Nvfp4, Rounding::NearestEven), DType::F32, false, false);

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
