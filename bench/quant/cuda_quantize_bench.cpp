// Quantisers on the GPU: GB/s of the matrix read once and codes, scales and residual written once, and the share of a
// device-to-device copy's rate in the same run (of_copy).
#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <string>

#include "bench/cuda_rate.h"
#include "nibble/quant/quantize.h"
#include "tests/quant/quantiser.h"

namespace nibble::bench {
namespace {

constexpr std::uint64_t kSeed = 1;

OwnedTensor normal_on_gpu(DType dtype, std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  OwnedTensor x(DType::F32, {rows, cols});
  float* values = x.view().data<float>();
  constexpr std::int64_t kDistinct = std::int64_t{1} << 20;
  for (std::int64_t i = 0; i < x.view().numel(); ++i)
    values[i] = i < kDistinct ? normal(random) : values[i - kDistinct];
  OwnedTensor y(dtype, {rows, cols});
  convert(x, y);
  return copy_to(y, Device::Cuda);
}

QuantSpec with(QuantSpec spec, const std::function<void(QuantSpec&)>& change) {
  change(spec);
  return spec;
}

struct Case {
  DType dtype = DType::BF16;
  QuantSpec spec;
  bool col_fold = false;
  bool row_fold = false;
  bool product = false;
};

const std::map<std::string, Case>& cases() {
  const auto per_row = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax);
  const auto mxfp4 = quantiser(ElementFormat::E2M1, Granularity::block(1, 32), ScaleRule::Ceil6);
  const auto nvfp4 = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
  const auto squares = quantiser(ElementFormat::E2M1, Granularity::block(16, 16), ScaleRule::Nvfp4);
  const auto e4m3 = quantiser(ElementFormat::E4M3, Granularity::per_row(), ScaleRule::Absmax);
  const auto transposed = [](QuantSpec& s) { s.transposed = true; };
  const auto stochastic = [](QuantSpec& s) { s.rounding = Rounding::Stochastic; };
  const auto rht = [](QuantSpec& s) { s.hadamard = {16, Hadamard::Signs::Vector}; };
  const auto clamp = [](ResidualMode mode) { return [mode](QuantSpec& s) { s.clamp = {0.99, true, mode}; }; };
  const auto stochastic8 = [](QuantSpec& s) { s.rounding = Rounding::Stochastic8; };
  const auto eden = [](QuantSpec& s) {
    s.rounding = Rounding::Eden;
    s.nvfp4 = {6 / 0.988125, 255.99, 1, 0, Selection::None};
    s.hadamard = {128, Hadamard::Signs::Call};
  };
  const auto four_over_six = [](QuantSpec& s) { s.nvfp4 = {6, 256, 1, 0, Selection::Mse}; };
  const auto quest = [](QuantSpec& s) {
    s.scale = ScaleRule::QuestFloor;
    s.rounding = Rounding::NearestZero;
    s.hadamard = {32, Hadamard::Signs::Plus};
    s.trust_mask = true;
  };
  const auto quartet = [](QuantSpec& s) {
    s.scale = ScaleRule::RangeMatch34;
    s.rounding = Rounding::Stochastic;
    s.hadamard = {32, Hadamard::Signs::Call};
  };
  const auto e4m3_columns = quantiser(ElementFormat::E4M3, Granularity::per_column(), ScaleRule::Absmax);
  static const std::map<std::string, Case> all = {
      {"rows_e2m1_product", {DType::BF16, per_row, false, false, true}},
      {"columns_e4m3_row_fold_product", {DType::BF16, e4m3_columns, false, true, true}},
      {"nvfp4_product", {DType::BF16, nvfp4, false, false, true}},
      {"nvfp4_stochastic8", {DType::BF16, with(nvfp4, stochastic8)}},
      {"nvfp4_stochastic8_product", {DType::BF16, with(nvfp4, stochastic8), false, false, true}},
      {"nvfp4_transposed_rht16_product", {DType::BF16, with(with(nvfp4, transposed), rht), false, false, true}},
      {"nvfp4_stochastic8_transposed_rht16_product",
       {DType::BF16, with(with(with(nvfp4, stochastic8), transposed), rht), false, false, true}},
      {"nvfp4_four_over_six", {DType::BF16, with(nvfp4, four_over_six)}},
      {"nvfp4_eden_rht128_product", {DType::BF16, with(nvfp4, eden), false, false, true}},
      {"nvfp4_eden_transposed_rht128_product", {DType::BF16, with(with(nvfp4, eden), transposed), false, false, true}},
      {"mxfp4_quest_rht32", {DType::BF16, with(mxfp4, quest)}},
      {"mxfp4_quartet_rht32", {DType::BF16, with(mxfp4, quartet)}},
      {"mxfp4_quartet_transposed_rht32", {DType::BF16, with(with(mxfp4, quartet), transposed)}},
      {"rows_e2m1", {DType::BF16, per_row}},
      {"rows_e2m1_f32", {DType::F32, per_row}},
      {"rows_e2m1_transposed", {DType::BF16, with(per_row, transposed)}},
      {"rows_e2m1_stochastic", {DType::BF16, with(per_row, stochastic)}},
      {"rows_e2m1_clamp", {DType::BF16, with(per_row, clamp(ResidualMode::None))}},
      {"rows_e2m1_clamp_sparse", {DType::BF16, with(per_row, clamp(ResidualMode::Sparse))}},
      {"rows_e2m1_clamp_fused", {DType::BF16, with(per_row, clamp(ResidualMode::Fused))}},
      {"rows_e4m3_col_fold", {DType::BF16, e4m3, true}},
      {"rows_e4m3_transposed", {DType::BF16, with(e4m3, transposed)}},
      {"mxfp4", {DType::BF16, mxfp4}},
      {"mxfp4_stochastic", {DType::BF16, with(mxfp4, stochastic)}},
      {"mxfp4_transposed", {DType::BF16, with(mxfp4, transposed)}},
      {"nvfp4", {DType::BF16, nvfp4}},
      {"nvfp4_f32_16x16", {DType::F32, squares}},
      {"nvfp4_stochastic", {DType::BF16, with(nvfp4, stochastic)}},
      {"nvfp4_rht16", {DType::BF16, with(nvfp4, rht)}},
      {"nvfp4_stochastic_transposed_rht16", {DType::BF16, with(with(with(nvfp4, stochastic), transposed), rht)}},
  };
  return all;
}

void quantise(benchmark::State& state, const Case& c) {
  if (cuda_devices() == 0) return state.SkipWithError("no GPU here");
  const std::int64_t rows = state.range(0);
  const std::int64_t cols = state.range(1);
  const OwnedTensor x = normal_on_gpu(c.dtype, rows, cols);
  const OwnedTensor fold = normal_on_gpu(DType::F32, 1, cols);
  QuantizeContext context;
  context.random = {kSeed, 2, 3};
  context.signs = {kSeed, 4, 5};
  if (c.col_fold) context.col_fold = fold;
  const OwnedTensor of_rows = normal_on_gpu(DType::F32, 1, rows);
  if (c.row_fold) context.row_fold = of_rows;
  context.for_product = c.product;
  Arena arena(Device::Cuda);
  double bytes = static_cast<double>(x.view().bytes());
  {
    const ArenaScope scope(arena);
    const QTensor q = quantize(x, c.spec, context, arena);
    bytes += static_cast<double>(stored_bytes(q));
    // A column number and a value an outlier.
    if (q.residual.defined()) bytes += 8.0 * (1 - c.spec.clamp.alpha) * 2 * static_cast<double>(x.view().numel());
  }
  measure_traffic(state, bytes, [&] {
    const ArenaScope scope(arena);
    quantize(x, c.spec, context, arena);
  });
}

/// Two operands of one matrix by quantize_pair: x counts once, and so do both results; `of_two` is the time's share of
/// that of two calls.
struct PairCase {
  DType dtype = DType::BF16;
  QuantSpec a, b;
  bool folds = false;
};

const std::map<std::string, PairCase>& pair_cases() {
  using enum ElementFormat;
  const auto rows = quantiser(E4M3, Granularity::per_row(), ScaleRule::Absmax);
  const auto columns = quantiser(E4M3, Granularity::per_column(), ScaleRule::Absmax);
  const auto e5m2 = [](QuantSpec spec) { return with(spec, [](QuantSpec& s) { s.element = E5M2; }); };
  const auto nvfp4 = [](Rounding rounding) {
    return quantiser(E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4, rounding);
  };
  const auto for_wgrad = [](QuantSpec spec) {
    return with(spec, [](QuantSpec& s) {
      s.transposed = true;
      s.hadamard = {16, Hadamard::Signs::Vector};
    });
  };
  static const std::map<std::string, PairCase> all = {
      {"e4m3_folds", {DType::BF16, rows, columns, true}},
      {"e4m3_folds_f32", {DType::F32, rows, columns, true}},
      {"e5m2", {DType::BF16, e5m2(rows), e5m2(columns)}},
      {"nvfp4_x", {DType::BF16, nvfp4(Rounding::NearestEven), for_wgrad(nvfp4(Rounding::NearestEven))}},
      {"nvfp4_dy", {DType::BF16, nvfp4(Rounding::Stochastic8), for_wgrad(nvfp4(Rounding::Stochastic8))}},
      {"nvfp4_dy_f32", {DType::F32, nvfp4(Rounding::Stochastic8), for_wgrad(nvfp4(Rounding::Stochastic8))}},
  };
  return all;
}

void quantise_pair(benchmark::State& state, const PairCase& c) {
  if (cuda_devices() == 0) return state.SkipWithError("no GPU here");
  const OwnedTensor x = normal_on_gpu(c.dtype, state.range(0), state.range(1));
  const OwnedTensor of_rows = normal_on_gpu(DType::F32, 1, state.range(0));
  const OwnedTensor of_cols = normal_on_gpu(DType::F32, 1, state.range(1));
  QuantizeContext in_a;
  in_a.random = {kSeed, 2, 3};
  in_a.signs = {kSeed, 4, 5};
  in_a.for_product = true;
  QuantizeContext in_b = in_a;
  if (c.folds) in_a.col_fold = of_cols;
  if (c.folds) in_b.row_fold = of_rows;
  Arena arena(Device::Cuda);
  const auto pair = [&] {
    const ArenaScope scope(arena);
    return quantize_pair(x, c.a, in_a, c.b, in_b, arena);
  };
  const auto two_calls = [&] {
    const ArenaScope scope(arena);
    quantize(x, c.a, in_a, arena);
    quantize(x, c.b, in_b, arena);
  };
  const QuantizedPair q = pair();
  const std::size_t bytes = x.view().bytes() + stored_bytes(q.first) + stored_bytes(q.second);
  const CudaTimer timer;
  const auto least_of_ten = [&](const auto& f) {
    f();
    double least = timer(f);
    for (int i = 1; i < 10; ++i) least = std::min(least, timer(f));
    return least;
  };
  state.counters["of_two"] = least_of_ten(pair) / least_of_ten(two_calls);
  measure_traffic(state, static_cast<double>(bytes), pair);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const auto& [name, c] : pair_cases()) {
    benchmark::RegisterBenchmark(("cuda_quantize_pair/" + name).c_str(), quantise_pair, c)
        ->Args({16384, 2048})
        ->Args({16384, 5632})
        ->Args({32768, 640})
        ->Unit(benchmark::kMicrosecond)
        ->UseManualTime();
  }
  for (const auto& [name, c] : cases()) {
    benchmark::RegisterBenchmark(("cuda_quantise/" + name).c_str(), quantise, c)
        ->Args({16384, 2048})
        ->Args({16384, 5632})
        ->Args({32768, 640})
        ->Unit(benchmark::kMicrosecond)
        ->UseManualTime();
  }
  return true;
}();

}  // namespace
}  // namespace nibble::bench
