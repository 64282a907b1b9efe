// What holds on average: means of many quantisations, their spread, and what a transform's signs do.
#include "nibble/quant/hadamard.h"
#include "tests/quant/measure.h"

namespace nibble {
namespace {

constexpr int kMost = 1024;

/// Errors of the mean of 1, 4, 16, ..., 1024 quantisations, relative to x; each draws anew, transform included.
std::vector<double> errors_of_mean(const QuantSpec& spec) {
  constexpr std::int64_t kRows = 32;
  constexpr std::int64_t kCols = 128;
  const std::vector<float> x = reference::gaussian(kRows * kCols, 606);
  std::vector<double> sum(x.size(), 0.0);
  std::vector<double> errors;
  int next = 1;
  for (int n = 1; n <= kMost; ++n) {
    QuantizeContext context;
    context.random = {1, static_cast<std::uint32_t>(n), 2};
    context.signs = {1, static_cast<std::uint32_t>(n), 3};
    Arena arena(Device::Cpu, 1 << 20);
    const QTensor q = quantize(Tensor::of(x.data(), {kRows, kCols}), spec, context, arena);
    std::vector<float> values = values_of(q);
    const Tensor view = Tensor::of(values.data(), {kRows, kCols});
    if (spec.hadamard.enabled()) hadamard_inverse(view, spec.hadamard, context.signs, view);
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += static_cast<double>(values[i]);
    if (n != next) continue;
    next *= 4;
    double noise = 0, signal = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      noise += (sum[i] / n - v) * (sum[i] / n - v);
      signal += v * v;
    }
    errors.push_back(std::sqrt(noise / signal));
  }
  return errors;
}

/// Slope of log(error) over log(n), least squares.
double slope(const std::vector<double>& errors) {
  const double n = static_cast<double>(errors.size());
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    const double x = static_cast<double>(2 * i);
    const double y = std::log2(errors[i]);
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
  }
  return (n * sxy - sx * sy) / (n * sxx - sx * sx);
}

QuantSpec rotated(QuantSpec spec, std::int64_t group) {
  spec.hadamard = {group, Hadamard::Signs::Call, false};
  return spec;
}

TEST(Statistics, UnbiasedQuantisersAverageOutWithTheSquareRoot) {
  const std::pair<const char*, QuantSpec> quantisers[] = {
      {"NVFP4 SR", nvfp4(Rounding::Stochastic, {kUnbiasedMax, 448, 0, 0, {}})},
      {"NVFP4 SR, rotated", rotated(nvfp4(Rounding::Stochastic, {kUnbiasedMax, 448, 0, 0, {}}), 16)},
      {"MXFP4 SR", mxfp4(ScaleRule::RangeMatch34, Rounding::Stochastic)},
      {"MS-EDEN", rotated(eden(128), 128)},
      {"LUQ", quantiser(ElementFormat::E3M0, Granularity::per_tensor(), ScaleRule::Absmax, Rounding::Stochastic)},
      {"Int4 SR", quantiser(ElementFormat::Int4, Granularity::per_row(), ScaleRule::Absmax, Rounding::Stochastic)},
  };
  for (const auto& [name, spec] : quantisers) {
    SCOPED_TRACE(name);
    const std::vector<double> errors = errors_of_mean(spec);
    EXPECT_NEAR(slope(errors), -0.5, 0.02);
    EXPECT_NEAR(errors[4] / errors[5], 2, 0.1);  // no plateau at the end
  }
}

TEST(Statistics, BiasedQuantisersReachAPlateau) {
  EXPECT_NEAR(slope(errors_of_mean(nvfp4())), 0, 1e-9);
  // A transform drawn anew averages part of the error of round to nearest out, its shrinkage stays.
  EXPECT_GT(slope(errors_of_mean(rotated(nvfp4(), 16))), -0.45);
  const std::vector<double> clipped = errors_of_mean(mxfp4(ScaleRule::OcpFloor, Rounding::Stochastic));
  EXPECT_LT(clipped[4] / clipped[5], 1.3);
  // Choosing the scale by its error biases even stochastic rounding.
  const std::vector<double> chosen = errors_of_mean(rotated(nvfp4(Rounding::Stochastic, four_six(Selection::Mse)), 16));
  EXPECT_LT(chosen[4] / chosen[5], 1.9);
}

TEST(Statistics, StochasticRoundingOfEachElementHasItsOwnVariance) {
  // A 6 in front makes the scale one.
  const std::vector<float> row = {6, .1f, .3f, -.6f, 1.2f, 1.9f, -2.3f, 2.8f, 3.5f, -4.5f, 5.5f, 5};
  constexpr std::int64_t kRows = 50000;
  const auto cols = static_cast<std::int64_t>(row.size());
  std::vector<float> x;
  for (std::int64_t r = 0; r < kRows; ++r) x.insert(x.end(), row.begin(), row.end());
  Arena arena;
  QuantizeContext context;
  context.random = {11, 12, 13};
  const std::vector<float> values = values_of(quantise(
      x, kRows, quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::Stochastic), arena,
      context));
  std::vector<double> mean(row.size(), 0), variance(row.size(), 0);
  double neighbours = 0;
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double d =
          static_cast<double>(values[static_cast<std::size_t>(r * cols + c)]) - static_cast<double>(row[i]);
      mean[i] += d / kRows;
      variance[i] += d * d / kRows;
    }
    const auto at = static_cast<std::size_t>(r * cols);
    neighbours += (static_cast<double>(values[at + 8]) - 3.5) * (static_cast<double>(values[at + 9]) + 4.5) / kRows;
  }
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double a = std::abs(static_cast<double>(row[i]));
    const std::size_t k = reference::interval(reference::e2m1_grid(), a);
    const double want = (a - reference::e2m1_grid()[k]) * (reference::e2m1_grid()[k + 1] - a);
    EXPECT_NEAR(mean[i], 0, 5 * std::sqrt(want / kRows) + 1e-6) << row[i];
    EXPECT_NEAR(variance[i], want, 0.04 * want + 1e-6) << row[i];
  }
  EXPECT_NEAR(neighbours, 0, 5 * std::sqrt(0.25 * 0.75 / kRows));
}

TEST(Statistics, SignsFirstSpreadAConstantBlockAndSignsLastNeverDo) {
  const std::vector<float> ones(32, 0.75f);
  QuantSpec spec;
  spec.element = ElementFormat::F32;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    QuantizeContext context;
    context.signs.seed = seed;
    spec.hadamard = {32, Hadamard::Signs::Call, true};
    Arena arena;
    const std::vector<float> last = values_of(quantise(ones, 1, spec, arena, context));
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(last[i] != 0, i == 0) << seed;
    spec.hadamard.signs_last = false;
    const std::vector<float> first = values_of(quantise(ones, 1, spec, arena, context));
    EXPECT_GT(std::count_if(first.begin(), first.end(), [](float v) { return v != 0; }), 8) << seed;
  }
}

TEST(Statistics, TheSameSeedAndStepGiveTheSameBitsWhereverARowStands) {
  // Rows of a micro-batch draw what they draw in the whole batch.
  const std::vector<float> x = reference::gaussian(64 * 96, 44);
  const QuantSpec spec =
      quantiser(ElementFormat::E2M1, Granularity::block(1, 32), ScaleRule::Ceil6, Rounding::Stochastic);
  QuantizeContext context;
  context.random = {9, 8, 7};
  Arena arena;
  const QTensor whole = quantise(x, 64, spec, arena, context);
  context.element_offset = 24 * 96;
  const QTensor part = quantise({x.begin() + 24 * 96, x.begin() + 40 * 96}, 16, spec, arena, context);
  for (std::int64_t r = 0; r < 16; ++r) {
    for (std::int64_t c = 0; c < 96; ++c) ASSERT_EQ(part.value_at(r, c), whole.value_at(24 + r, c));
  }
  // And the columns of a transposed operand, with the batch's row stride.
  QuantSpec turned = spec;
  turned.transposed = true;
  turned.granularity = Granularity::block(1, 8);
  context.element_offset = 0;
  const QTensor all = quantise(x, 64, turned, arena, context);
  context.element_offset = 24;
  context.element_stride = 64;
  const QTensor some = quantise({x.begin() + 24 * 96, x.begin() + 40 * 96}, 16, turned, arena, context);
  for (std::int64_t r = 0; r < 96; ++r) {
    for (std::int64_t c = 0; c < 16; ++c) ASSERT_EQ(some.value_at(r, c), all.value_at(r, 24 + c));
  }
}

}  // namespace
}  // namespace nibble
