// The sparse residual at the density that clamping to the 0.99 quantile leaves (2 %), against the dense product that
// it compensates: `%dense` is its time as a share of gemm's on the same shape with FP4 operands.
#include <benchmark/benchmark.h>

#include <random>

#include "bench/ops/matmul_reference.h"
#include "nibble/ops/gemm.h"
#include "nibble/ops/spmm.h"

namespace nibble {
namespace {

using bench::median;
using bench::seconds;

constexpr double kDensity = 0.02;

struct Case {
  std::int64_t t, n, k;
  int threads;
  DType dtype;
  explicit Case(const benchmark::State& state)
      : t(state.range(0)),
        n(state.range(1)),
        k(state.range(2)),
        threads(static_cast<int>(state.range(3))),
        dtype(state.range(4) == 0 ? DType::F32 : DType::BF16) {}
};

struct Residual {
  OwnedTensor row_begin, col, value;
  CsrMatrix m;
};

Residual random_residual(std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(1);
  std::bernoulli_distribution present(kDensity);
  std::vector<std::int32_t> begin{0}, col;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      if (present(random)) col.push_back(static_cast<std::int32_t>(c));
    }
    begin.push_back(static_cast<std::int32_t>(col.size()));
  }
  const auto nnz = static_cast<std::int64_t>(col.size());
  Residual x{OwnedTensor(DType::I32, {rows + 1}), OwnedTensor(DType::I32, {nnz}), OwnedTensor(DType::F32, {nnz}), {}};
  std::copy(begin.begin(), begin.end(), x.row_begin.view().data<std::int32_t>());
  std::copy(col.begin(), col.end(), x.col.view().data<std::int32_t>());
  std::fill_n(x.value.view().data<float>(), nnz, 0.5f);
  x.m = {rows, cols, x.row_begin, x.col, x.value};
  return x;
}

/// All codes 1.0 without scales: the time of a product does not depend on its values.
QTensor fp4_ones(std::int64_t rows, std::int64_t cols, Arena& arena) {
  QTensor q;
  q.element = ElementFormat::E2M1;
  q.rows = rows;
  q.cols = cols;
  q.codes = arena.allocate(DType::U8, {rows, q.code_row_bytes()});
  std::fill_n(q.codes.data<std::uint8_t>(), q.codes.numel(), std::uint8_t{0x22});
  return q;
}

template <class Sparse, class Dense>
void measure(benchmark::State& state, std::int64_t nnz, std::int64_t n, Sparse sparse, Dense dense) {
  std::vector<double> t_sparse, t_dense;
  sparse();
  dense();
  for (auto _ : state) {
    t_sparse.push_back(seconds(sparse));
    state.SetIterationTime(t_sparse.back());
    t_dense.push_back(seconds(dense));
  }
  const double t = median(t_sparse);
  state.counters["GFLOP/s"] = 2e-9 * static_cast<double>(nnz) * static_cast<double>(n) / t;
  state.counters["%dense"] = 100 * t / median(t_dense);
}

void spmm_fprop(benchmark::State& state) {
  const Case c(state);
  const bench::Threads threads(c.threads);
  const Residual x = random_residual(c.t, c.k);
  const OwnedTensor w(c.dtype, {c.k, c.n});
  const OwnedTensor y(c.dtype, {c.t, c.n});
  Arena arena;
  const QTensor qx = fp4_ones(c.t, c.k, arena);
  const QTensor qw = fp4_ones(c.n, c.k, arena);
  measure(
      state, x.m.nnz(), c.n, [&] { nibble::spmm_fprop(x.m, w, y, arena); },
      [&] { gemm({qx}, {qw}, y, Accumulate::Overwrite, arena); });
}

void spmm_wgrad(benchmark::State& state) {
  const Case c(state);
  const bench::Threads threads(c.threads);
  const Residual x = random_residual(c.t, c.k);
  const OwnedTensor dy(c.dtype, {c.t, c.n});
  const OwnedTensor dw(DType::F32, {c.n, c.k});
  Arena arena;
  const QTensor qdy = fp4_ones(c.t, c.n, arena);
  const QTensor qx = fp4_ones(c.t, c.k, arena);
  measure(
      state, x.m.nnz(), c.n, [&] { nibble::spmm_wgrad(x.m, dy, dw, arena); },
      [&] {
        gemm({qdy, true}, {qx, true}, dw, Accumulate::Overwrite, arena);
      });
}

/// [T, N] to [N, T]; the rate is of bytes read and written.
void transpose(benchmark::State& state) {
  const Case c(state);
  const bench::Threads threads(c.threads);
  const OwnedTensor from(c.dtype, {c.t, c.n});
  const OwnedTensor to(c.dtype, {c.n, c.t});
  for (auto _ : state) nibble::transpose(from, to);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * from.view().bytes()));
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "N", "K", "threads", "bf16"})->Unit(benchmark::kMillisecond);
  const std::int64_t all = omp_get_num_procs();
  for (std::int64_t threads = 1; threads <= all; threads = threads == 1 && all > 1 ? all : all + 1) {
    for (const std::int64_t bf16 : {0, 1}) {
      b->Args({2048, 768, 768, threads, bf16});
      b->Args({2048, 2048, 768, threads, bf16});
      b->Args({2048, 768, 2048, threads, bf16});
    }
  }
}
void timed_shapes(benchmark::internal::Benchmark* b) {
  b->UseManualTime();
  shapes(b);
}

BENCHMARK(spmm_fprop)->Apply(timed_shapes);
BENCHMARK(spmm_wgrad)->Apply(timed_shapes);
BENCHMARK(transpose)->Apply(shapes);

}  // namespace
}  // namespace nibble
