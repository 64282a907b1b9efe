#include "nibble/quant/cpu/stochastic.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/quant/quantize.h"
#include "tests/quant/each_target.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

QuantSpec stochastic(Rounding rounding) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::per_row();
  spec.scale = ScaleRule::Absmax;
  spec.rounding = rounding;
  return spec;
}

/// Mean over n steps of the quantised row, one stream a step.
std::vector<double> mean_of_steps(const std::vector<float>& x, Rounding rounding, std::uint32_t first, int n) {
  std::vector<double> mean(x.size(), 0.0);
  std::vector<float> values(x.size());
  const auto cols = static_cast<std::int64_t>(x.size());
  Arena arena;
  for (int i = 0; i < n; ++i) {
    const ArenaScope scope(arena);
    QuantizeContext context;
    context.random = {17, first + static_cast<std::uint32_t>(i), 1};
    dequantize(quantize(Tensor::of(x.data(), {1, cols}), stochastic(rounding), context, arena),
               Tensor::of(values.data(), {1, cols}));
    for (std::size_t c = 0; c < x.size(); ++c) mean[c] += values[c];
  }
  for (double& v : mean) v /= n;
  return mean;
}

double rms_error(const std::vector<double>& mean, const std::vector<float>& x) {
  double sum = 0;
  for (std::size_t c = 0; c < x.size(); ++c) sum += (mean[c] - x[c]) * (mean[c] - x[c]);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

/// Slope of log2(error of the mean of n) over log2(n), by least squares, n = 1, 4, ..., 1024.
double slope(Rounding rounding) {
  const std::vector<float> x = reference::gaussian(1024, 5);
  double sx = 0, sy = 0, sxx = 0, sxy = 0, count = 0;
  std::uint32_t first = 0;
  for (int log_n = 0; log_n <= 10; log_n += 2) {
    const int n = 1 << log_n;
    const double y = std::log2(rms_error(mean_of_steps(x, rounding, first, n), x));
    first += static_cast<std::uint32_t>(n);
    sx += log_n, sy += y, sxx += log_n * log_n, sxy += log_n * y, count += 1;
  }
  return (count * sxy - sx * sy) / (count * sxx - sx * sx);
}

TEST(Stochastic, TheErrorOfTheMeanFallsWithTheSquareRootOfTheCount) {
  EXPECT_NEAR(slope(Rounding::Stochastic), -0.5, 0.02);
}

TEST(Stochastic, TheErrorOfTheMeanOfRoundToNearestDoesNotFall) { EXPECT_NEAR(slope(Rounding::NearestEven), 0.0, 1e-9); }

TEST(Stochastic, EightBitsLowerTheMeanByAtMostAStepOver256) {
  std::vector<float> x(512);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 6.0f * static_cast<float>(i + 1) / 513.7f;
  x.back() = 6.0f;  // makes the scale one; the others are no multiples of step / 256, which would be unbiased
  constexpr int kDraws = 4096;
  const std::vector<double> mean = mean_of_steps(x, Rounding::Stochastic8, 0, kDraws);
  double bias = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double step = x[i] < 2 ? 0.5 : x[i] < 4 ? 1.0 : 2.0;
    const double noise = 5 * step / (2 * std::sqrt(static_cast<double>(kDraws)));  // five sigma of the mean
    EXPECT_LE(mean[i], x[i] + noise) << x[i];
    EXPECT_GE(mean[i], x[i] - step / 256 - noise) << x[i];
    bias += (mean[i] - x[i]) / step / static_cast<double>(x.size());
  }
  EXPECT_NEAR(bias, -0.5 / 256, 0.0012);
}

TEST(Stochastic, VarianceIsThatOfIndependentCoins) {
  // Var = (x - lo) (hi - x), and neighbours are uncorrelated.
  for (const float value : {0.1f, 0.375f, 1.9f, 2.25f, 3.5f, 5.5f}) {
    constexpr std::int64_t kCount = 1 << 16;
    std::vector<float> x(kCount, value);
    x[0] = 6;
    QuantizeContext context;
    context.random = {3, 1, 4};
    Arena arena;
    std::vector<float> q(kCount);
    dequantize(quantize(Tensor::of(x.data(), {1, kCount}), stochastic(Rounding::Stochastic), context, arena),
               Tensor::of(q.data(), {1, kCount}));
    const double step = value < 2 ? 0.5 : value < 4 ? 1.0 : 2.0;
    const double lo = std::floor(value / step) * step;
    const double variance = (value - lo) * (lo + step - value);
    double sum = 0;
    double covariance = 0;
    for (std::size_t i = 1; i < x.size(); ++i) {
      sum += (q[i] - value) * (q[i] - value);
      if (i > 1) covariance += (q[i] - value) * (q[i - 1] - value);
    }
    EXPECT_NEAR(sum / kCount, variance, 0.02 * variance + 0.004 * step * step) << value;
    EXPECT_NEAR(covariance / kCount, 0, 5 * variance / std::sqrt(static_cast<double>(kCount))) << value;
  }
}

void expect_words_and_bytes_of_the_stream() {
  const RandomStream streams[] = {{0, 0, 0}, {0x0123'4567'89AB'CDEFull, 7, 9}};
  const std::uint64_t firsts[] = {0, 1, 3, 127, 1000, (std::uint64_t{1} << 34) - 5, (std::uint64_t{1} << 36) - 9};
  for (const RandomStream& stream : streams) {
    for (const std::uint64_t first : firsts) {
      for (const std::int64_t n : {0, 1, 3, 4, 5, 31, 64, 68, 130, 700}) {
        std::vector<std::uint32_t> words(static_cast<std::size_t>(n));
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(n));
        quant_cpu::random_words(stream, first, n, words.data());
        quant_cpu::random_bytes(stream, first, n, bytes.data());
        for (std::size_t i = 0; i < words.size(); ++i) {
          ASSERT_EQ(words[i], stream.word(first + i)) << "first " << first << " i " << i;
          ASSERT_EQ(bytes[i], stream.byte(first + i)) << "first " << first << " i " << i;
        }
      }
    }
  }
}

TEST(Stochastic, RowFillersGiveTheWordsAndBytesOfTheStreamOnEveryInstructionSet) {
  for_each_target(expect_words_and_bytes_of_the_stream);
}

TEST(Stochastic, TheElementOffsetContinuesAStream) {
  // The lower half of a matrix, with the offset of its first element, rounds as it does within the whole.
  std::vector<float> x = reference::gaussian(8 * 37, 21);
  for (const Rounding rounding : {Rounding::Stochastic, Rounding::Stochastic8}) {
    Arena arena;
    QuantizeContext context;
    context.random = {5, 6, 7};
    const QTensor whole = quantize(Tensor::of(x.data(), {8, 37}), stochastic(rounding), context, arena);
    context.element_offset = 4 * 37;
    const QTensor half = quantize(Tensor::of(x.data() + 4 * 37, {4, 37}), stochastic(rounding), context, arena);
    for (std::int64_t r = 0; r < 4; ++r) {
      for (std::int64_t c = 0; c < 37; ++c) EXPECT_EQ(half.value_at(r, c), whole.value_at(r + 4, c));
    }
  }
}

}  // namespace
}  // namespace nibble
