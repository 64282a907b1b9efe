#include "nibble/ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

double oracle_loss(const std::vector<double>& row, std::int32_t target) {
  if (target < 0) return 0;
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (double v : row) sum += std::exp(v - max);
  return std::log(sum) + (max - row[static_cast<std::size_t>(target)]);
}

std::vector<double> oracle_gradient(const std::vector<double>& row, std::int32_t target, double scale) {
  std::vector<double> gradient(row.size(), 0.0);
  if (target < 0) return gradient;
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (double v : row) sum += std::exp(v - max);
  for (std::size_t v = 0; v < row.size(); ++v) {
    gradient[v] = scale * (std::exp(row[v] - max) / sum - (static_cast<std::int32_t>(v) == target ? 1 : 0));
  }
  return gradient;
}

std::vector<double> row_of(const Tensor& x, std::int64_t r) { return doubles(x.row_range(r, r + 1)); }

std::vector<std::int32_t> some_targets(std::int64_t rows, std::int64_t vocab) {
  std::vector<std::int32_t> targets;
  for (std::int64_t r = 0; r < rows; ++r) {
    targets.push_back(r % 4 == 3 ? -1 : static_cast<std::int32_t>((r * 7919 + vocab - 1) % vocab));
  }
  return targets;
}

TEST(CrossEntropy, TheOracleGradientIsTheCentralDifferenceOfTheOracleLoss) {
  std::vector<double> row = doubles(random_tensor(DType::F32, {11}, 41, 2.0f));
  const std::vector<double> gradient = oracle_gradient(row, 4, 0.7);
  for (std::size_t v = 0; v < row.size(); ++v) {
    constexpr double kH = 1e-5;
    const double centre = row[v];
    row[v] = centre + kH;
    const double up = oracle_loss(row, 4);
    row[v] = centre - kH;
    const double down = oracle_loss(row, 4);
    row[v] = centre;
    EXPECT_NEAR(gradient[v], 0.7 * (up - down) / (2 * kH), 1e-9);
  }
}

TEST(CrossEntropy, LossAndGradientAgreeWithTheDoubleOracle) {
  constexpr float kScale = 0.125f;
  for (const auto& [rows, vocab] : std::initializer_list<std::array<std::int64_t, 2>>{
           {1, 1}, {4, 5}, {9, 16}, {7, 2048}, {5, 2049}, {3, 32003}, {2, 131072}}) {
    SCOPED_TRACE(fmt::format("[{}, {}], seed 42", rows, vocab));
    const OwnedTensor logits = random_tensor(DType::F32, {rows, vocab}, 42, 4.0f);
    const std::vector<std::int32_t> targets = some_targets(rows, vocab);
    const OwnedTensor target = tokens_tensor(targets);
    const OwnedTensor loss(DType::F32, {rows});
    const OwnedTensor same_loss(DType::F32, {rows});
    const OwnedTensor f32(DType::F32, {rows, vocab});
    const OwnedTensor b16(DType::BF16, {rows, vocab});
    cross_entropy_forward(logits, target, loss);
    cross_entropy_forward_backward(logits, target, kScale, same_loss, f32);
    EXPECT_EQ(bytes_of(same_loss), bytes_of(loss));
    cross_entropy_forward_backward(logits, target, kScale, same_loss, b16);
    EXPECT_EQ(bytes_of(same_loss), bytes_of(loss));
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int32_t t = targets[static_cast<std::size_t>(r)];
      const std::vector<double> row = row_of(logits, r);
      ASSERT_NEAR(loss.view().data<float>()[r], oracle_loss(row, t), 2e-6) << "row " << r;
      const std::vector<double> want = oracle_gradient(row, t, kScale);
      const std::vector<double> got = row_of(f32, r);
      const std::vector<double> got16 = row_of(b16, r);
      for (std::size_t v = 0; v < want.size(); ++v) {
        ASSERT_NEAR(got[v], want[v], 1e-6 * std::abs(want[v]) + 1e-12) << "row " << r << ", entry " << v;
        ASSERT_NEAR(got16[v], want[v], 0x1.02p-8 * std::abs(want[v]) + 1e-12) << "row " << r << ", entry " << v;
      }
    }
    cross_entropy_forward_backward(logits, target, kScale, same_loss, logits);
    EXPECT_EQ(bytes_of(logits), bytes_of(f32)) << "in place";
  }
}

TEST(CrossEntropy, IgnoredRowsHaveNoLossAndOverwriteTheirGradientWithZero) {
  const OwnedTensor logits = random_tensor(DType::F32, {3, 40}, 43);
  const OwnedTensor loss = random_tensor(DType::F32, {3}, 44);
  const OwnedTensor gradient = random_tensor(DType::BF16, {3, 40}, 45);
  cross_entropy_forward_backward(logits, tokens_tensor({-1, 5, -100}), 1.0f, loss, gradient);
  EXPECT_EQ(loss.view().data<float>()[0], 0.0f);
  EXPECT_EQ(loss.view().data<float>()[2], 0.0f);
  EXPECT_GT(loss.view().data<float>()[1], 0.0f);
  for (std::int64_t r : {0, 2}) {
    for (double v : row_of(gradient, r)) EXPECT_EQ(v, 0);
  }
}

// A row of 5000 entries (three blocks), all `rest` but for the listed ones.
OwnedTensor row_with(float rest, std::initializer_list<std::pair<std::int64_t, float>> entries) {
  OwnedTensor x(DType::F32, {1, 5000});
  std::fill(x.view().data<float>(), x.view().data<float>() + 5000, rest);
  for (const auto& [at, value] : entries) x.view().data<float>()[at] = value;
  return x;
}

void expect_finite_and_close(const OwnedTensor& logits, std::int32_t target) {
  const OwnedTensor loss(DType::F32, {1});
  const OwnedTensor gradient(DType::F32, {1, 5000});
  cross_entropy_forward_backward(logits, tokens_tensor({target}), 1.0f, loss, gradient);
  const double want = oracle_loss(row_of(logits, 0), target);
  EXPECT_TRUE(std::isfinite(*loss.view().data<float>()));
  EXPECT_NEAR(*loss.view().data<float>(), want, 1e-6 * want + 1e-6);
  const std::vector<double> got = doubles(gradient);
  const std::vector<double> expected = oracle_gradient(row_of(logits, 0), target, 1.0);
  for (std::size_t v = 0; v < got.size(); ++v) ASSERT_NEAR(got[v], expected[v], 1e-6) << v;
}

TEST(CrossEntropy, ExtremeLogitsStayFinite) {
  expect_finite_and_close(row_with(0.0f, {{4000, 1e4f}}), 4000);
  expect_finite_and_close(row_with(0.0f, {{4000, 1e4f}}), 3);
  expect_finite_and_close(row_with(-1e4f, {{0, 1e4f}, {4999, 1e4f}}), 4999);
  expect_finite_and_close(row_with(-1e30f, {{2500, 1.0f}, {7, 2.0f}}), 7);
  expect_finite_and_close(row_with(kLowest, {{4999, 0.0f}}), 4999);
  expect_finite_and_close(row_with(-kInf, {{4500, -3.0f}, {4501, -2.0f}}), 4500);
  expect_finite_and_close(row_with(1e30f, {}), 1);
}

TEST(CrossEntropy, NaNInALogitShowsInTheLoss) {
  for (std::int64_t at : {0, 100, 2048, 4999}) {
    const OwnedTensor logits = row_with(1.0f, {{at, std::numeric_limits<float>::quiet_NaN()}, {4100, 9.0f}});
    const OwnedTensor loss(DType::F32, {1});
    cross_entropy_forward(logits, tokens_tensor({5}), loss);
    EXPECT_TRUE(std::isnan(*loss.view().data<float>())) << at;
  }
}

TEST(CrossEntropy, TheGradientOfEveryRowSumsToZero) {
  const OwnedTensor logits = random_tensor(DType::F32, {16, 3001}, 46, 8.0f);
  const OwnedTensor loss(DType::F32, {16});
  const OwnedTensor gradient(DType::F32, {16, 3001});
  cross_entropy_forward_backward(logits, tokens_tensor(std::vector<std::int32_t>(16, 77)), 1.0f, loss, gradient);
  for (std::int64_t r = 0; r < 16; ++r) {
    const std::vector<double> row = row_of(gradient, r);
    EXPECT_NEAR(std::accumulate(row.begin(), row.end(), 0.0), 0, 1e-6) << "row " << r;
  }
}

TEST(CrossEntropy, TheBitsDoNotDependOnTheNumberOfThreads) {
  const OwnedTensor logits = random_tensor(DType::F32, {37, 1003}, 47);
  const OwnedTensor targets = tokens_tensor(some_targets(37, 1003));
  const auto run = [&](int threads) {
    const ThreadCount scope(threads);
    const OwnedTensor loss(DType::F32, {37});
    const OwnedTensor gradient(DType::BF16, {37, 1003});
    cross_entropy_forward_backward(logits, targets, 0.01f, loss, gradient);
    return std::vector{bytes_of(loss), bytes_of(gradient)};
  };
  const auto one = run(1);
  for (int threads : {2, 3, 7}) EXPECT_EQ(run(threads), one) << threads << " threads";
}

TEST(CrossEntropy, ATargetOutsideTheVocabularyAndAWrongShapeAreRefused) {
  const OwnedTensor logits = random_tensor(DType::F32, {1, 10}, 48);
  const OwnedTensor loss(DType::F32, {1});
  EXPECT_THROW(cross_entropy_forward(logits, tokens_tensor({10}), loss), InternalError);
  EXPECT_THROW(cross_entropy_forward(logits, tokens_tensor({1, 2}), loss), InternalError);
  cross_entropy_forward(OwnedTensor(DType::F32, {0, 10}), tokens_tensor({}), OwnedTensor(DType::F32, {0}));
}

}  // namespace
}  // namespace nibble
