// The GPU's ops that memory bounds, on the shapes of a 1.3B model (16384 tokens, hidden 2048, FFN 5632, vocabulary
// 32000) and of a 30M one. The bytes of an op are those that any implementation has to move: every operand once.
#include <cmath>
#include <random>

#include "bench/cuda_rate.h"
#include "nibble/ops/cross_entropy.h"
#include "nibble/ops/embedding.h"
#include "nibble/ops/fused_quantize.h"
#include "nibble/ops/reduce.h"
#include "nibble/ops/rmsnorm.h"
#include "nibble/ops/rope.h"
#include "nibble/ops/swiglu.h"

namespace nibble {
namespace {

using bench::measure_traffic;
using benchmark::State;

bool no_gpu(State& state) {
  if (cuda_devices() > 0) return false;
  state.SkipWithError("no GPU here");
  return true;
}

/// Normal values, repeated from row to row; others for another number of rows.
OwnedTensor normal(DType dtype, std::int64_t rows, std::int64_t cols) {
  std::mt19937 engine(static_cast<unsigned>(rows));
  std::normal_distribution<float> value(0.0f, 1.0f);
  const OwnedTensor row(DType::F32, {1, cols});
  for (std::int64_t i = 0; i < cols; ++i) row.view().data<float>()[i] = value(engine);
  const OwnedTensor converted(dtype, {1, cols});
  convert(row, converted);
  OwnedTensor x(dtype, {rows, cols}, Device::Cuda);
  for (std::int64_t r = 0; r < rows; ++r) copy(converted, x.view().row_range(r, r + 1));
  return x;
}

/// Tokens whose frequencies fall as 1 / rank, as in text, and how many different ones there are.
struct Text {
  Text(std::int64_t count, std::int64_t vocab) : tokens(DType::I32, {count}, Device::Cuda) {
    std::mt19937 engine(1);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    const OwnedTensor host(DType::I32, {count});
    std::vector<bool> seen(static_cast<std::size_t>(vocab));
    for (std::int64_t t = 0; t < count; ++t) {
      const double rank = std::exp(uniform(engine) * std::log(static_cast<double>(vocab)));
      const std::int64_t token = std::min(static_cast<std::int64_t>(rank), vocab - 1);
      host.view().data<std::int32_t>()[t] = static_cast<std::int32_t>(token);
      if (!seen[static_cast<std::size_t>(token)]) ++different;
      seen[static_cast<std::size_t>(token)] = true;
    }
    copy(host, tokens);
  }
  OwnedTensor tokens;
  std::int64_t different = 0;
};

void cuda_rmsnorm_forward(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const OwnedTensor x = normal(DType::F32, rows, d);
  const OwnedTensor gain = normal(DType::F32, 1, d);
  const OwnedTensor y(DType::BF16, {rows, d}, Device::Cuda);
  const OwnedTensor rstd(DType::F32, {rows}, Device::Cuda);
  measure_traffic(state, static_cast<double>(rows * d * 6), [&] { rmsnorm_forward(x, gain, 1e-5f, y, rstd); });
}

/// Magnitudes under factors, and the memory of them. They are not set back: later passes find them as large already.
struct Magnitudes {
  Magnitudes(std::int64_t rows, std::int64_t cols)
      : col_fold(normal(DType::F32, 1, cols)),
        row_fold(normal(DType::F32, 1, rows)),
        of_rows(DType::I32, {rows}, Device::Cuda),
        of_cols(DType::I32, {cols}, Device::Cuda) {
    fill_zero(of_rows);
    fill_zero(of_cols);
  }
  PairMagnitudes all() const {
    return {col_fold.view().reshape({col_fold.view().numel()}), row_fold.view().reshape({row_fold.view().numel()}),
            of_rows, of_cols};
  }
  OwnedTensor col_fold, row_fold, of_rows, of_cols;
};

void cuda_rmsnorm_backward(State& state, bool with_magnitudes) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const OwnedTensor dy = normal(DType::BF16, rows, d);
  const OwnedTensor x = normal(DType::F32, rows, d);
  const OwnedTensor gain = normal(DType::F32, 1, d);
  const OwnedTensor rstd = normal(DType::F32, 1, rows);
  const OwnedTensor dx(DType::F32, {rows, d}, Device::Cuda);
  const OwnedTensor dgain(DType::F32, {d}, Device::Cuda);
  const Magnitudes magnitudes(rows, d);
  const PairMagnitudes raise = with_magnitudes ? magnitudes.all() : PairMagnitudes();
  Arena scratch(Device::Cuda);
  measure_traffic(state, static_cast<double>(rows * d * (2 + 4 + 8)),
                  [&] { rmsnorm_backward(dy, x, gain, rstd, dx, dgain, scratch, raise); });
}

void cuda_swiglu_forward(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), f = state.range(1);
  const OwnedTensor gate_up = normal(DType::BF16, rows, 2 * f);
  const OwnedTensor y(DType::BF16, {rows, f}, Device::Cuda);
  measure_traffic(state, static_cast<double>(rows * f * 6), [&] { swiglu_forward(gate_up, y); });
}

void cuda_swiglu_backward(State& state, bool with_magnitudes) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), f = state.range(1);
  const OwnedTensor dy = normal(DType::BF16, rows, f);
  const OwnedTensor gate_up = normal(DType::BF16, rows, 2 * f);
  const OwnedTensor d_gate_up(DType::BF16, {rows, 2 * f}, Device::Cuda);
  const Magnitudes magnitudes(rows, 2 * f);
  const PairMagnitudes raise = with_magnitudes ? magnitudes.all() : PairMagnitudes();
  measure_traffic(state, static_cast<double>(rows * f * 10), [&] { swiglu_backward(dy, gate_up, d_gate_up, raise); });
}

/// The activations of wang2025 with fused outliers: a byte an element.
QuantSpec clamped_rows() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  spec.rounding = Rounding::NearestUp;
  spec.clamp = {0.99, true, ResidualMode::Fused};
  return spec;
}

void cuda_rmsnorm_quantize(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), d = state.range(1);
  const OwnedTensor x = normal(DType::F32, rows, d);
  const OwnedTensor gain = normal(DType::F32, 1, d);
  const OwnedTensor rstd(DType::F32, {rows}, Device::Cuda);
  Arena arena(Device::Cuda);
  Arena scratch(Device::Cuda);
  measure_traffic(state, static_cast<double>(rows * d * 5), [&] {
    const ArenaScope scope(arena);
    rmsnorm_quantize(x, gain, 1e-5f, rstd, clamped_rows(), {}, arena, scratch);
  });
}

void cuda_swiglu_quantize(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), f = state.range(1);
  const OwnedTensor gate_up = normal(DType::BF16, rows, 2 * f);
  Arena arena(Device::Cuda);
  Arena scratch(Device::Cuda);
  measure_traffic(state, static_cast<double>(rows * f * 5), [&] {
    const ArenaScope scope(arena);
    swiglu_quantize(gate_up, clamped_rows(), {}, arena, scratch);
  });
}

/// Heads of values are read, too.
void cuda_rope_backward_magnitudes(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), heads = state.range(1), head_dim = state.range(2);
  const std::int64_t cols = 3 * heads * head_dim;
  const OwnedTensor qkv = normal(DType::BF16, rows, cols);
  const OwnedTensor cos(DType::F32, {512, head_dim / 2}, Device::Cuda);
  const OwnedTensor sin(DType::F32, {512, head_dim / 2}, Device::Cuda);
  const Magnitudes magnitudes(rows, cols);
  rope_tables(1e4f, {}, cos, sin);
  measure_traffic(state, static_cast<double>(rows * heads * head_dim * (2 * 4 + 2)),
                  [&] { rope_backward(qkv, heads, heads, cos, sin, magnitudes.all()); });
}

void cuda_rope_forward(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), heads = state.range(1), head_dim = state.range(2);
  const OwnedTensor qkv = normal(DType::BF16, rows, 3 * heads * head_dim);
  const OwnedTensor cos(DType::F32, {512, head_dim / 2}, Device::Cuda);
  const OwnedTensor sin(DType::F32, {512, head_dim / 2}, Device::Cuda);
  rope_tables(1e4f, {}, cos, sin);
  measure_traffic(state, static_cast<double>(rows * 2 * heads * head_dim * 4),
                  [&] { rope_forward(qkv, heads, heads, cos, sin); });
}

void cuda_embedding_forward(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), d = state.range(1), vocab = state.range(2);
  const Text text(rows, vocab);
  const OwnedTensor table = normal(DType::F32, vocab, d);
  const OwnedTensor x(DType::F32, {rows, d}, Device::Cuda);
  measure_traffic(state, static_cast<double>((rows + text.different) * d * 4),
                  [&] { embedding_forward(text.tokens, table, x); });
}

void cuda_embedding_backward(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), d = state.range(1), vocab = state.range(2);
  const Text text(rows, vocab);
  const OwnedTensor dx = normal(DType::F32, rows, d);
  const OwnedTensor dtable(DType::F32, {vocab, d}, Device::Cuda);
  Arena scratch(Device::Cuda);
  measure_traffic(state, static_cast<double>((rows + 2 * text.different) * d * 4),
                  [&] { embedding_backward(text.tokens, dx, dtable, scratch); });
}

void cuda_cross_entropy_forward(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), vocab = state.range(1);
  const OwnedTensor logits = normal(DType::F32, rows, vocab);
  const Text targets(rows, vocab);
  const OwnedTensor loss(DType::F32, {rows}, Device::Cuda);
  measure_traffic(state, static_cast<double>(rows * vocab * 4),
                  [&] { cross_entropy_forward(logits, targets.tokens, loss); });
}

void cuda_cross_entropy_backward(State& state, DType dtype) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), vocab = state.range(1);
  const OwnedTensor logits = normal(DType::F32, rows, vocab);
  const Text targets(rows, vocab);
  const OwnedTensor loss(DType::F32, {rows}, Device::Cuda);
  const OwnedTensor apart(DType::BF16, {rows, vocab}, Device::Cuda);
  const Tensor& dlogits = dtype == DType::F32 ? logits.view() : apart.view();
  measure_traffic(state, static_cast<double>(rows * vocab) * (4.0 + static_cast<double>(dtype_size(dtype))),
                  [&] { cross_entropy_forward_backward(logits, targets.tokens, 1.0f / 16384, loss, dlogits); });
}

constexpr std::int64_t kFlat = std::int64_t{1} << 27;

void cuda_sum_of_squares(State& state) {
  if (no_gpu(state)) return;
  const OwnedTensor x = normal(DType::F32, kFlat / 4096, 4096);
  measure_traffic(state, 4.0 * kFlat, [&] { benchmark::DoNotOptimize(sum_of_squares(x)); });
}

void cuda_first_non_finite(State& state) {
  if (no_gpu(state)) return;
  const OwnedTensor x = normal(DType::F32, kFlat / 4096, 4096);
  measure_traffic(state, 4.0 * kFlat, [&] { benchmark::DoNotOptimize(first_non_finite(x)); });
}

void cuda_scale_in_place(State& state) {
  if (no_gpu(state)) return;
  const OwnedTensor x = normal(DType::F32, kFlat / 4096, 4096);
  measure_traffic(state, 8.0 * kFlat, [&] { scale_in_place(x, 1.0f); });
}

void cuda_add_in_place(State& state) {
  if (no_gpu(state)) return;
  const OwnedTensor to = normal(DType::F32, kFlat / 4096, 4096);
  const OwnedTensor from = normal(DType::BF16, kFlat / 4096, 4096);
  measure_traffic(state, 10.0 * kFlat, [&] { add_in_place(to, from); });
}

void cuda_convert(State& state, DType from_type, DType to_type) {
  if (no_gpu(state)) return;
  const OwnedTensor from = normal(from_type, kFlat / 4096, 4096);
  const OwnedTensor to(to_type, {kFlat / 4096, 4096}, Device::Cuda);
  measure_traffic(state, 6.0 * kFlat, [&] { convert(from, to); });
}

void model_sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({16384, 2048})->Args({16384, 4096})->Args({32768, 512})->Args({32768, 640})->UseManualTime();
}
void ffn_sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({16384, 5632})->Args({16384, 11008})->Args({32768, 1376})->UseManualTime();
}
void head_sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({16384, 16, 128})->Args({32768, 10, 64})->UseManualTime();
}
void embedding_sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({16384, 2048, 32000})->Args({32768, 512, 32000})->UseManualTime();
}
void logit_sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({4096, 32000})->Args({16384, 4096})->Args({2048, 50257})->Args({1024, 128256})->UseManualTime();
}

BENCHMARK(cuda_rmsnorm_forward)->Apply(model_sizes);
BENCHMARK_CAPTURE(cuda_rmsnorm_backward, alone, false)->Apply(model_sizes);
BENCHMARK_CAPTURE(cuda_rmsnorm_backward, magnitudes, true)->Apply(model_sizes);
BENCHMARK(cuda_swiglu_forward)->Apply(ffn_sizes);
BENCHMARK_CAPTURE(cuda_swiglu_backward, alone, false)->Apply(ffn_sizes);
BENCHMARK_CAPTURE(cuda_swiglu_backward, magnitudes, true)->Apply(ffn_sizes);
BENCHMARK(cuda_rmsnorm_quantize)->Apply(model_sizes);
BENCHMARK(cuda_swiglu_quantize)->Apply(ffn_sizes);
BENCHMARK(cuda_rope_backward_magnitudes)->Apply(head_sizes);
BENCHMARK(cuda_rope_forward)->Apply(head_sizes);
BENCHMARK(cuda_embedding_forward)->Apply(embedding_sizes);
BENCHMARK(cuda_embedding_backward)->Apply(embedding_sizes);
BENCHMARK(cuda_cross_entropy_forward)->Apply(logit_sizes);
BENCHMARK_CAPTURE(cuda_cross_entropy_backward, in_place, DType::F32)->Apply(logit_sizes);
BENCHMARK_CAPTURE(cuda_cross_entropy_backward, bf16, DType::BF16)->Apply(logit_sizes);
BENCHMARK(cuda_sum_of_squares)->UseManualTime();
BENCHMARK(cuda_first_non_finite)->UseManualTime();
BENCHMARK(cuda_scale_in_place)->UseManualTime();
BENCHMARK(cuda_add_in_place)->UseManualTime();
BENCHMARK_CAPTURE(cuda_convert, to_bf16, DType::F32, DType::BF16)->UseManualTime();
BENCHMARK_CAPTURE(cuda_convert, to_f32, DType::BF16, DType::F32)->UseManualTime();

}  // namespace
}  // namespace nibble
