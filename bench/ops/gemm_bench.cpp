// Rates of the paths of gemm. Every iteration also times the reference, so the ratios are of medians within one
// run: `x_f32` against oneDNN's F32 matmul of the same shape (NT) and threads, `x_same` against oneDNN's matmul of the
// same element type and storage order.
#include <benchmark/benchmark.h>

#include <random>

#include "bench/ops/matmul_reference.h"
#include "nibble/ops/gemm.h"
#include "nibble/ops/machine.h"
#include "nibble/quant/quantize.h"

namespace nibble {
namespace {

using bench::MatmulReference;
using bench::median;
using bench::seconds;
using Type = MatmulReference::Type;

struct Case {
  std::int64_t m, n, k;
  int threads;
  explicit Case(const benchmark::State& state)
      : m(state.range(0)), n(state.range(1)), k(state.range(2)), threads(static_cast<int>(state.range(3))) {}
  double operations() const { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

/// Times `ours` and the references in turn and sets the counters. peak: operations a second of the case's threads.
template <class Ours>
void measure(benchmark::State& state, const Case& c, double peak, Ours ours, MatmulReference& f32,
             MatmulReference& same) {
  std::vector<double> t_ours, t_f32, t_same;
  ours();
  f32.run();
  same.run();
  for (auto _ : state) {
    t_ours.push_back(seconds(ours));
    state.SetIterationTime(t_ours.back());
    t_f32.push_back(seconds([&] { f32.run(); }));
    t_same.push_back(seconds([&] { same.run(); }));
  }
  const double t = median(t_ours);
  state.counters["GFLOP/s"] = c.operations() / t * 1e-9;
  state.counters["%peak"] = peak == 0 ? 0 : 100 * c.operations() / t / peak;
  state.counters["x_f32"] = median(t_f32) / t;
  state.counters["x_same"] = median(t_same) / t;
}

OwnedTensor random_tensor(DType dtype, std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  OwnedTensor f32(DType::F32, {rows, cols});
  for (std::int64_t i = 0; i < rows * cols; ++i) f32.view().data<float>()[i] = normal(random);
  if (dtype == DType::F32) return f32;
  OwnedTensor out(dtype, {rows, cols});
  convert(f32, out);
  return out;
}

QuantSpec fp4_rows() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::per_row();
  spec.scale = ScaleRule::Absmax;
  return spec;
}

QuantSpec blocks(std::int64_t length, ScaleRule rule) {
  QuantSpec spec = fp4_rows();
  spec.granularity = Granularity::block(1, length);
  spec.scale = rule;
  return spec;
}

/// What a run of a four-bit product includes beside the product.
enum class Include {
  Product,        ///< nothing: from packed codes to scaled F32
  Quantisations,  ///< the quantisation of both operands
  Dequantise,     ///< the quantisation of both, and instead of a product of codes one of dequantised F32 matrices
};

void four_bit_product(benchmark::State& state, const QuantSpec& spec, Include include, DType input) {
  const Case c(state);
  const bench::Threads threads(c.threads);
  const double peak = include == Include::Dequantise ? machine_peak().f32 : machine_peak().int8;
  const OwnedTensor a = random_tensor(input, c.m, c.k, 1);
  const OwnedTensor b = random_tensor(input, c.n, c.k, 2);
  const OwnedTensor out(DType::F32, {c.m, c.n});
  Arena arena;
  const QTensor qa = quantize(a, spec, {}, arena);
  const QTensor qb = quantize(b, spec, {}, arena);
  MatmulReference f32(Type::f32, Type::f32, Type::f32, c.m, c.n, c.k, false, true);
  MatmulReference u8s8(Type::u8, Type::s8, Type::s32, c.m, c.n, c.k, false, true);
  measure(
      state, c, peak,
      [&] {
        const ArenaScope scope(arena);
        if (include == Include::Product) {
          gemm({qa}, {qb}, out, Accumulate::Overwrite, arena);
          return;
        }
        const QTensor xa = quantize(a, spec, {}, arena);
        const QTensor xb = quantize(b, spec, {}, arena);
        if (include == Include::Quantisations) {
          gemm({xa}, {xb}, out, Accumulate::Overwrite, arena);
          return;
        }
        const Tensor va = arena.allocate(DType::F32, {c.m, c.k});
        const Tensor vb = arena.allocate(DType::F32, {c.n, c.k});
        dequantize(xa, va);
        dequantize(xb, vb);
        gemm({QTensor::view(va)}, {QTensor::view(vb)}, out, Accumulate::Overwrite, arena);
      },
      f32, u8s8);
}

// `x_same` of four-bit products is against oneDNN's bare u8 x s8 product of operands that are decoded already. "f32"
// and "bf16" in a name are what both operands are quantised from.

void int8_product(benchmark::State& state, Include include, DType input = DType::F32) {
  four_bit_product(state, fp4_rows(), include, input);
}
void gemm_int8(benchmark::State& state) { int8_product(state, Include::Product); }
void gemm_int8_quantise_f32(benchmark::State& state) { int8_product(state, Include::Quantisations); }
void gemm_int8_quantise_bf16(benchmark::State& state) { int8_product(state, Include::Quantisations, DType::BF16); }

void mxfp4_product(benchmark::State& state, Include include, DType input = DType::F32) {
  four_bit_product(state, blocks(32, ScaleRule::OcpFloor), include, input);
}
void gemm_mxfp4(benchmark::State& state) { mxfp4_product(state, Include::Product); }
void gemm_mxfp4_quantise_f32(benchmark::State& state) { mxfp4_product(state, Include::Quantisations); }
void gemm_mxfp4_quantise_bf16(benchmark::State& state) { mxfp4_product(state, Include::Quantisations, DType::BF16); }
void gemm_mxfp4_dequantise(benchmark::State& state) { mxfp4_product(state, Include::Dequantise); }

void nvfp4_product(benchmark::State& state, Include include, DType input = DType::F32) {
  four_bit_product(state, blocks(16, ScaleRule::Nvfp4), include, input);
}
void gemm_nvfp4(benchmark::State& state) { nvfp4_product(state, Include::Product); }
void gemm_nvfp4_quantise_f32(benchmark::State& state) { nvfp4_product(state, Include::Quantisations); }
void gemm_nvfp4_quantise_bf16(benchmark::State& state) { nvfp4_product(state, Include::Quantisations, DType::BF16); }
void gemm_nvfp4_dequantise(benchmark::State& state) { nvfp4_product(state, Include::Dequantise); }

/// oneDNN's u8 x s8 product of operands that are decoded already: what the instructions alone are worth.
void gemm_u8s8_bare(benchmark::State& state) {
  const Case c(state);
  const bench::Threads threads(c.threads);
  MatmulReference f32(Type::f32, Type::f32, Type::f32, c.m, c.n, c.k, false, true);
  MatmulReference u8s8(Type::u8, Type::s8, Type::s32, c.m, c.n, c.k, false, true);
  measure(
      state, c, machine_peak().int8, [&] { u8s8.run(); }, f32, u8s8);
}

/// order: 0 fprop (A, B stored with the contraction last), 1 dgrad (B transposed), 2 wgrad (both transposed).
void view_path(benchmark::State& state, DType dtype) {
  const Case c(state);
  const bool a_transposed = state.range(4) == 2;
  const bool b_transposed = state.range(4) >= 1;
  const bench::Threads threads(c.threads);
  const double peak = dtype == DType::F32 ? machine_peak().f32 : machine_peak().bf16;
  const OwnedTensor a = a_transposed ? random_tensor(dtype, c.k, c.m, 1) : random_tensor(dtype, c.m, c.k, 1);
  const OwnedTensor b = b_transposed ? random_tensor(dtype, c.k, c.n, 2) : random_tensor(dtype, c.n, c.k, 2);
  const OwnedTensor out(DType::F32, {c.m, c.n});
  const QTensor qa = QTensor::view(a);
  const QTensor qb = QTensor::view(b);
  Arena arena;
  const Type type = dtype == DType::F32 ? Type::f32 : Type::bf16;
  MatmulReference f32(Type::f32, Type::f32, Type::f32, c.m, c.n, c.k, false, true);
  MatmulReference same(type, type, Type::f32, c.m, c.n, c.k, a_transposed, !b_transposed);
  measure(
      state, c, peak,
      [&] {
        gemm({qa, a_transposed}, {qb, b_transposed}, out, Accumulate::Overwrite, arena);
      },
      f32, same);
}

void gemm_f32(benchmark::State& state) { view_path(state, DType::F32); }
void gemm_bf16(benchmark::State& state) { view_path(state, DType::BF16); }

constexpr std::int64_t kShapes[][3] = {{2048, 768, 768}, {2048, 2048, 768}, {2048, 768, 2048}, {4096, 1024, 4096}};

/// One thread, then all of the machine.
std::vector<std::int64_t> thread_counts() {
  const std::int64_t all = omp_get_num_procs();
  return all == 1 ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{1, all};
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "threads"})->UseManualTime()->Unit(benchmark::kMillisecond);
  for (const std::int64_t threads : thread_counts()) {
    for (const auto& s : kShapes) b->Args({s[0], s[1], s[2], threads});
  }
}

void shapes_and_orders(benchmark::internal::Benchmark* b) {
  b->ArgNames({"M", "N", "K", "threads", "order"})->UseManualTime()->Unit(benchmark::kMillisecond);
  for (const std::int64_t threads : thread_counts()) {
    for (const std::int64_t order : {0, 1, 2}) {
      for (const auto& s : kShapes) b->Args({s[0], s[1], s[2], threads, order});
    }
  }
}

BENCHMARK(gemm_int8)->Apply(shapes);
BENCHMARK(gemm_int8_quantise_f32)->Apply(shapes);
BENCHMARK(gemm_int8_quantise_bf16)->Apply(shapes);
BENCHMARK(gemm_u8s8_bare)->Apply(shapes);
BENCHMARK(gemm_mxfp4)->Apply(shapes);
BENCHMARK(gemm_mxfp4_quantise_f32)->Apply(shapes);
BENCHMARK(gemm_mxfp4_quantise_bf16)->Apply(shapes);
BENCHMARK(gemm_mxfp4_dequantise)->Apply(shapes);
BENCHMARK(gemm_nvfp4)->Apply(shapes);
BENCHMARK(gemm_nvfp4_quantise_f32)->Apply(shapes);
BENCHMARK(gemm_nvfp4_quantise_bf16)->Apply(shapes);
BENCHMARK(gemm_nvfp4_dequantise)->Apply(shapes);
BENCHMARK(gemm_bf16)->Apply(shapes_and_orders);
BENCHMARK(gemm_f32)->Apply(shapes_and_orders);

}  // namespace
}  // namespace nibble
