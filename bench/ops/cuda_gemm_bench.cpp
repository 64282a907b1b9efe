// Products on the GPU: TFLOP/s, and `x_bf16` against the BF16 product of the same shape in turn with it, in the same
// run. C is BF16. Shapes are those of linear layers of 1.3B and 7B models, and of small ones, with 16384 tokens.
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "bench/cuda_rate.h"
#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/ops/cuda/lt_matmul.h"
#include "nibble/ops/gemm.h"
#include "nibble/ops/spmm.h"

namespace nibble {
namespace {

using benchmark::State;

bool no_gpu(State& state) {
  if (cuda_devices() > 0) return false;
  state.SkipWithError("no GPU here");
  return true;
}

struct Shape {
  std::int64_t m, n, k;
  explicit Shape(const State& state) : m(state.range(0)), n(state.range(1)), k(state.range(2)) {}
  double operations() const { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

enum class Fill { Packed, E4M3, Bf16, Ue4m3Scales, E8m0Scales, F32Scales };

/// Random elements, the same 64 Ki of them over and over: E2M1 codes of normal values (packed, or as E4M3), normal
/// values, scales around 1.
OwnedTensor random_on_gpu(Fill fill, std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  const auto code = [&] { return e2m1_encode<Tie::Even>(normal(random)); };
  const DType dtype = fill == Fill::Bf16 ? DType::BF16 : fill == Fill::F32Scales ? DType::F32 : DType::U8;
  OwnedTensor host(dtype, {rows, cols});
  const std::size_t size = dtype_size(dtype);
  const std::size_t first = std::min(host.view().bytes(), size << 16);
  auto* bytes = static_cast<std::uint8_t*>(host.view().raw());
  for (std::size_t i = 0; i < first / size; ++i) {
    switch (fill) {
      case Fill::Packed: bytes[i] = static_cast<std::uint8_t>(code() | code() << 4); break;
      case Fill::E4M3: bytes[i] = e4m3_encode(e2m1_decode(code())); break;
      case Fill::Bf16: host.view().data<bf16>()[i] = bf16_encode(normal(random)); break;
      case Fill::Ue4m3Scales: bytes[i] = static_cast<std::uint8_t>(0x30 + random() % 0x10); break;
      case Fill::E8m0Scales: bytes[i] = static_cast<std::uint8_t>(125 + random() % 4); break;
      case Fill::F32Scales: host.view().data<float>()[i] = 0.5f + std::fabs(normal(random)); break;
    }
  }
  for (std::size_t at = first; at < host.view().bytes(); at += first) {
    std::memcpy(bytes + at, bytes, std::min(first, host.view().bytes() - at));
  }
  return copy_to(host, Device::Cuda);
}

/// An operand on the GPU with its memory.
struct Operand {
  OwnedTensor codes, scales;
  QTensor q;
};

Operand bf16_operand(std::int64_t rows, std::int64_t cols, unsigned seed) {
  Operand x{random_on_gpu(Fill::Bf16, rows, cols, seed), {}, {}};
  x.q = QTensor::view(x.codes);
  return x;
}

/// One F32 scale a row. E4M3 holds the numbers of E2M1, so that its products are those of the packed codes.
Operand row_scaled(ElementFormat element, std::int64_t rows, std::int64_t cols, unsigned seed) {
  const bool packed = element == ElementFormat::E2M1;
  Operand x{random_on_gpu(packed ? Fill::Packed : Fill::E4M3, rows, packed ? (cols + 1) / 2 : cols, seed),
            random_on_gpu(Fill::F32Scales, rows, 1, seed),
            {}};
  x.q.element = element;
  x.q.rows = rows;
  x.q.cols = cols;
  x.q.granularity = Granularity::per_row();
  x.q.scale_format = ScaleFormat::F32;
  x.q.codes = x.codes;
  x.q.scales = x.scales;
  return x;
}

Operand nvfp4(std::int64_t rows, std::int64_t cols, unsigned seed) {
  Operand x = row_scaled(ElementFormat::E2M1, rows, cols, seed);
  x.scales = random_on_gpu(Fill::Ue4m3Scales, rows, (cols + 15) / 16, seed);
  x.q.granularity = Granularity::block(1, 16);
  x.q.scale_format = ScaleFormat::UE4M3;
  x.q.scales = x.scales;
  return x;
}

/// The first `far` rows have exponents too far apart for E4M3 under one scale.
Operand mxfp4(std::int64_t rows, std::int64_t cols, std::int64_t far, unsigned seed) {
  Operand x = row_scaled(ElementFormat::E2M1, rows, cols, seed);
  OwnedTensor scales = copy_to(random_on_gpu(Fill::E8m0Scales, rows, (cols + 31) / 32, seed), Device::Cpu);
  for (std::int64_t r = 0; r < far; ++r) scales.view().data<std::uint8_t>()[r * scales.view().cols()] = 90;
  x.scales = copy_to(scales, Device::Cuda);
  x.q.granularity = Granularity::block(1, 32);
  x.q.scale_format = ScaleFormat::E8M0;
  x.q.scales = x.scales;
  return x;
}

/// Times `ours` and `reference` in turn, five calls each.
template <class Ours, class Reference>
void measure(State& state, double operations, Ours ours, Reference reference) {
  constexpr int kCalls = 5;
  const bench::CudaTimer timer;
  const auto calls = [&](const auto& f) {
    return timer([&] {
             for (int i = 0; i < kCalls; ++i) f();
           }) /
           kCalls;
  };
  ours();
  reference();
  double seconds = 0;
  double reference_seconds = 0;
  for (auto _ : state) {
    const double once = calls(ours);
    state.SetIterationTime(once);
    seconds += once;
    reference_seconds += calls(reference);
  }
  state.counters["TFLOP/s"] = 1e-12 * operations * static_cast<double>(state.iterations()) / seconds;
  state.counters["x_bf16"] = reference_seconds / seconds;
}

/// The BF16 product that the others are held against.
struct Bf16Product {
  Operand a, b;
  OwnedTensor c;
  explicit Bf16Product(const Shape& s)
      : a(bf16_operand(s.m, s.k, 1)), b(bf16_operand(s.n, s.k, 2)), c(DType::BF16, {s.m, s.n}, Device::Cuda) {}
  void operator()(Arena& scratch) const { gemm({a.q}, {b.q}, c, Accumulate::Overwrite, scratch); }
};

void product(State& state, const Shape& s, const GemmOperand& a, const GemmOperand& b) {
  const Bf16Product bf16_product(s);
  const OwnedTensor c(DType::BF16, {s.m, s.n}, Device::Cuda);
  Arena scratch(Device::Cuda, std::size_t{1} << 30);
  measure(
      state, s.operations(), [&] { gemm(a, b, c, Accumulate::Overwrite, scratch); }, [&] { bf16_product(scratch); });
  state.SetLabel(gemm_path_name(gemm_path(a, b)));
}

void cuda_gemm_bf16(State& state) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = bf16_operand(s.m, s.k, 3);
  const Operand b = bf16_operand(s.n, s.k, 4);
  product(state, s, {a.q}, {b.q});
}

/// The product alone: the operands lie there as E4M3, scales of rows and columns in the epilogue.
void cuda_gemm_fp8(State& state) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = row_scaled(ElementFormat::E4M3, s.m, s.k, 3);
  const Operand b = row_scaled(ElementFormat::E4M3, s.n, s.k, 4);
  product(state, s, {a.q}, {b.q});
}

/// The same by the library directly, with fast accumulation.
void cuda_gemm_fp8_fast_accumulation(State& state) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = row_scaled(ElementFormat::E4M3, s.m, s.k, 3);
  const Operand b = row_scaled(ElementFormat::E4M3, s.n, s.k, 4);
  const OwnedTensor c(DType::BF16, {s.m, s.n}, Device::Cuda);
  cuda::LtProduct p;
  p.m = s.m;
  p.n = s.n;
  p.k = s.k;
  p.a = {a.q.codes.raw(), cuda::LtType::E4M3, s.k, false};
  p.b = {b.q.codes.raw(), cuda::LtType::E4M3, s.k, false};
  p.c = c.view().raw();
  p.c_type = cuda::LtType::BF16;
  p.c_stride = s.n;
  p.scales = cuda::LtProduct::Scales::Vector;
  p.scale_a = a.q.scales.data<float>();
  p.scale_b = b.q.scales.data<float>();
  p.fast_accumulation = true;
  if (!cuda::lt_matmul(p)) {
    state.SkipWithError("the library has no such product");
    return;
  }
  const Bf16Product bf16_product(s);
  Arena scratch(Device::Cuda);
  measure(
      state, s.operations(), [&] { cuda::lt_matmul(p); }, [&] { bf16_product(scratch); });
}

/// From packed codes: decoded to E4M3, then multiplied.
void cuda_gemm_fp4(State& state) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = row_scaled(ElementFormat::E2M1, s.m, s.k, 3);
  const Operand b = row_scaled(ElementFormat::E2M1, s.n, s.k, 4);
  product(state, s, {a.q}, {b.q});
}

/// The same where both operands are stored across the contraction, as in wgrad: decoded and transposed. One's scales
/// are folded into the other.
void cuda_gemm_fp4_transposed(State& state) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = row_scaled(ElementFormat::E2M1, s.k, s.m, 3);
  const Operand b = row_scaled(ElementFormat::E2M1, s.k, s.n, 4);
  product(state, s, {a.q, true, true}, {b.q, true, true});
}

void cuda_gemm_nvfp4(State& state) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = nvfp4(s.m, s.k, 3);
  const Operand b = nvfp4(s.n, s.k, 4);
  product(state, s, {a.q}, {b.q});
}

/// MXFP4 through `products`; `far` rows of each operand cannot go through FP8.
void mxfp4_product(State& state, MxProducts products, std::int64_t far) {
  if (no_gpu(state)) return;
  const Shape s(state);
  const Operand a = mxfp4(s.m, s.k, std::min(far, s.m), 3);
  const Operand b = mxfp4(s.n, s.k, std::min(far, s.n), 4);
  set_mx_products(products);
  product(state, s, {a.q}, {b.q});
  set_mx_products(MxProducts::Fp8);
}

void cuda_gemm_mxfp4(State& state) { mxfp4_product(state, MxProducts::Fp8, 0); }
void cuda_gemm_mxfp4_bf16(State& state) { mxfp4_product(state, MxProducts::Bf16, 0); }
void cuda_gemm_mxfp4_16_rows_by_block(State& state) { mxfp4_product(state, MxProducts::Fp8, 16); }
void cuda_gemm_mxfp4_all_rows_by_block(State& state) { mxfp4_product(state, MxProducts::Fp8, state.range(0)); }

void shapes(benchmark::internal::Benchmark* b) {
  for (const auto& s : {std::array<std::int64_t, 3>{8192, 8192, 8192},
                        {16384, 2048, 2048},
                        {16384, 5632, 2048},
                        {16384, 2048, 5632},
                        {16384, 4096, 4096},
                        {16384, 11008, 4096},
                        {2048, 5632, 16384},
                        {16384, 3072, 768},
                        {16384, 768, 768},
                        {4096, 768, 768}}) {
    b->Args({s[0], s[1], s[2]});
  }
  b->ArgNames({"M", "N", "K"})->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(cuda_gemm_bf16)->Apply(shapes);
BENCHMARK(cuda_gemm_fp8)->Apply(shapes);
BENCHMARK(cuda_gemm_fp8_fast_accumulation)->Apply(shapes);
BENCHMARK(cuda_gemm_fp4)->Apply(shapes);
BENCHMARK(cuda_gemm_fp4_transposed)->Apply(shapes);
BENCHMARK(cuda_gemm_nvfp4)->Apply(shapes);
BENCHMARK(cuda_gemm_mxfp4)->Apply(shapes);
BENCHMARK(cuda_gemm_mxfp4_bf16)->Apply(shapes);
BENCHMARK(cuda_gemm_mxfp4_16_rows_by_block)->Apply(shapes);
BENCHMARK(cuda_gemm_mxfp4_all_rows_by_block)
    ->Args({16384, 2048, 2048})
    ->ArgNames({"M", "N", "K"})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// --- The sparse residual, 2 % of [T, K]; `x_bf16` against the dense BF16 product that it corrects. ---

struct Residual {
  OwnedTensor row_begin, col, value;
  CsrMatrix m;
};

Residual random_residual(std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(1);
  std::geometric_distribution<std::int64_t> skip(0.02);
  std::vector<std::int32_t> begin{0};
  std::vector<std::int32_t> col;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = skip(random); c < cols; c += 1 + skip(random)) col.push_back(static_cast<std::int32_t>(c));
    begin.push_back(static_cast<std::int32_t>(col.size()));
  }
  const auto nnz = static_cast<std::int64_t>(col.size());
  const std::vector<float> ones(col.size(), 1.0f);
  Residual x{OwnedTensor(DType::I32, {rows + 1}, Device::Cuda),
             OwnedTensor(DType::I32, {nnz}, Device::Cuda),
             OwnedTensor(DType::F32, {nnz}, Device::Cuda),
             {}};
  copy(Tensor::of(begin.data(), {rows + 1}), x.row_begin);
  copy(Tensor::of(col.data(), {nnz}), x.col);
  copy(Tensor::of(ones.data(), {nnz}), x.value);
  x.m = {rows, cols, x.row_begin, x.col, x.value};
  return x;
}

void spmm(State& state, bool wgrad) {
  if (no_gpu(state)) return;
  const Shape s(state);  // m is the number of tokens
  const Residual x = random_residual(s.m, s.k);
  const OwnedTensor dense = random_on_gpu(Fill::Bf16, wgrad ? s.m : s.k, s.n, 1);
  const OwnedTensor y(DType::BF16, {s.m, s.n}, Device::Cuda);
  const OwnedTensor dw(DType::F32, {s.n, s.k}, Device::Cuda);
  const Bf16Product bf16_product(s);
  Arena scratch(Device::Cuda, std::size_t{1} << 28);
  measure(
      state, 2.0 * static_cast<double>(x.m.col.numel()) * static_cast<double>(s.n),
      [&] { wgrad ? spmm_wgrad(x.m, dense, dw, scratch) : spmm_fprop(x.m, dense, y, scratch); },
      [&] { bf16_product(scratch); });
}

void cuda_spmm_fprop(State& state) { spmm(state, false); }
void cuda_spmm_wgrad(State& state) { spmm(state, true); }

void residual_shapes(benchmark::internal::Benchmark* b) {
  for (const auto& s : {std::array<std::int64_t, 2>{2048, 2048},
                        {5632, 2048},
                        {2048, 5632},
                        {4096, 4096},
                        {11008, 4096},
                        {4096, 11008}}) {
    b->Args({16384, s[0], s[1]});
  }
  b->Args({32768, 2048, 512});
  b->ArgNames({"T", "N", "K"})->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(cuda_spmm_fprop)->Apply(residual_shapes);
BENCHMARK(cuda_spmm_wgrad)->Apply(residual_shapes);

void cuda_transpose_f32_to_bf16(State& state) {
  if (no_gpu(state)) return;
  const std::int64_t rows = state.range(0), cols = state.range(1);
  const OwnedTensor from(DType::F32, {rows, cols}, Device::Cuda);
  const OwnedTensor to(DType::BF16, {cols, rows}, Device::Cuda);
  bench::measure_traffic(state, static_cast<double>(rows * cols * 6), [&] { transpose(from, to); });
}
BENCHMARK(cuda_transpose_f32_to_bf16)->Args({5632, 2048})->Args({16384, 2048})->Args({11008, 4096})->UseManualTime();

}  // namespace
}  // namespace nibble
