#include "nibble/quant/cpu/clamp.h"

#include <gtest/gtest.h>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

QuantSpec clamped(double alpha, bool per_row = true) {
  QuantSpec spec;
  spec.element = ElementFormat::F32;  // leaves y_c to be seen as it is
  spec.clamp = {alpha, per_row, ResidualMode::Sparse};
  return spec;
}

TEST(Clamp, QuantilePositionsAreTruncatedDoubles) {
  EXPECT_EQ(quant_cpu::quantile_index(0.99, 4096).low, 40);
  EXPECT_EQ(quant_cpu::quantile_index(0.99, 4096).high, 4055);
  EXPECT_EQ(quant_cpu::quantile_index(0.99, 4096).outside(4096), 80);
  EXPECT_EQ(quant_cpu::quantile_index(1.0, 10).high, 9);
}

TEST(Clamp, SearchFindsTheSortedEntriesWhateverItStartsFrom) {
  std::mt19937_64 engine(31);
  for (const std::int64_t n : {1, 2, 7, 100, 33000, 70000}) {
    quant_cpu::QuantileSearch<std::int16_t> search16(0.9, n);
    quant_cpu::QuantileSearch<std::int32_t> search32(0.9, n);
    const auto low = static_cast<std::size_t>((1 - 0.9) * static_cast<double>(n));
    const auto high = std::min(static_cast<std::size_t>(0.9 * static_cast<double>(n)), static_cast<std::size_t>(n - 1));
    for (int round = 0; round < 6; ++round) {
      // Rows that jump over the whole range, or hold one value only.
      std::vector<std::int16_t> keys16(static_cast<std::size_t>(n));
      std::vector<std::int32_t> keys32(static_cast<std::size_t>(n));
      const std::uint32_t mask = round == 2 ? 0 : round == 3 ? 0xFF : ~0u;
      const auto base = static_cast<std::uint32_t>(engine());
      for (std::size_t i = 0; i < keys16.size(); ++i) {
        const std::uint32_t v = (static_cast<std::uint32_t>(engine()) & mask) + (mask == ~0u ? 0 : base);
        keys16[i] = static_cast<std::int16_t>(v);
        keys32[i] = static_cast<std::int32_t>(v);
      }
      const auto got16 = search16(keys16.data());
      const auto got32 = search32(keys32.data());
      std::sort(keys16.begin(), keys16.end());
      std::sort(keys32.begin(), keys32.end());
      ASSERT_EQ(got16.low, keys16[low]) << "n " << n << " round " << round;
      ASSERT_EQ(got16.high, keys16[high]) << "n " << n << " round " << round;
      ASSERT_EQ(got32.low, keys32[low]) << "n " << n << " round " << round;
      ASSERT_EQ(got32.high, keys32[high]) << "n " << n << " round " << round;
    }
  }
}

/// Heavy-tailed BF16 activations: one entry in 200 is fifty times larger.
std::vector<float> activations(std::size_t n, std::uint64_t seed) {
  std::vector<float> x = reference::gaussian(n, seed);
  std::mt19937_64 engine(seed);
  for (float& v : x) {
    if (engine() % 200 == 0) v *= 50;
    v = reference::to_bf16(v);
  }
  return x;
}

std::vector<float> with_residual(const QTensor& q) {
  std::vector<float> values(static_cast<std::size_t>(q.rows * q.cols));
  dequantize(q, Tensor::of(values.data(), {q.rows, q.cols}));
  return values;
}

TEST(Clamp, ClampedPlusResidualIsTheInput) {
  const std::vector<float> x = activations(64 * 4096, 3);
  for (const bool per_row : {true, false}) {
    for (const double alpha : {0.999, 0.99, 0.97, 0.6}) {
      Arena arena;
      const QTensor q = quantize(Tensor::of(x.data(), {64, 4096}), clamped(alpha, per_row), {}, arena);
      EXPECT_EQ(with_residual(q), x) << alpha;
      EXPECT_GT(q.residual.nnz(), 0);
    }
  }
}

TEST(Clamp, FloatsComeBackToHalfAUnitInTheLastPlace) {
  std::vector<float> x = reference::gaussian(64 * 1000, 4);
  for (std::size_t i = 0; i < x.size(); i += 97) x[i] *= 50;
  Arena arena;
  const QTensor q = quantize(Tensor::of(x.data(), {64, 1000}), clamped(0.99), {}, arena);
  const std::vector<float> got = with_residual(q);
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_LE(std::abs(got[i] - x[i]), std::abs(std::nextafter(x[i], 1e30f) - x[i])) << x[i];
  }
}

TEST(Clamp, DensityIsTwiceTheTailAndRowsKeepToTheirBound) {
  const std::vector<float> x = activations(32 * 4096, 5);
  QuantSpec spec = clamped(0.99);
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    std::vector<float> values = x;
    const OwnedTensor tensor = reference::make_tensor(dtype, 32, 4096, values);
    Arena arena;
    const QTensor q = quantize(tensor, spec, {}, arena);
    const auto* begin = q.residual.row_begin.data<std::int32_t>();
    for (std::int64_t r = 0; r < 32; ++r) {
      EXPECT_LE(begin[r + 1] - begin[r], 80);
      EXPECT_GE(begin[r + 1] - begin[r], 60);  // less than 80 only by ties with the bounds
    }
    EXPECT_LE(static_cast<double>(q.residual.nnz()) / (32 * 4096), 2 * 0.01 + 2.0 / 4096);
  }
}

TEST(Clamp, TheScaleFollowsTheClampedValues) {
  std::vector<float> x(200, 0.0f);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) / 200.0f;
  x[199] = 1000.0f;
  QuantSpec spec = clamped(0.99);
  spec.element = ElementFormat::E2M1;
  spec.scale = ScaleRule::Absmax;
  Arena arena;
  const QTensor q = quantize(Tensor::of(x.data(), {1, 200}), spec, {}, arena);
  EXPECT_EQ(q.scale_at(0, 0), (198.0f / 200.0f) / 6.0f);
}

}  // namespace
}  // namespace nibble
