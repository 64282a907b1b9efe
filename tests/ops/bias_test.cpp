#include "nibble/ops/bias.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

using testing::doubles;
using testing::random_tensor;
using testing::same_bits;

constexpr std::initializer_list<std::pair<std::int64_t, std::int64_t>> kShapes = {
    {1, 1}, {3, 7}, {33, 100}, {700, 48}, {2, 769}};

class Bias : public ::testing::TestWithParam<DType> {};

TEST_P(Bias, ForwardAddsItToEveryRow) {
  for (const auto& [rows, n] : kShapes) {
    const OwnedTensor y = random_tensor(GetParam(), {rows, n}, 1);
    const OwnedTensor bias = random_tensor(DType::F32, {n}, 2);
    const std::vector<double> before = doubles(y), b = doubles(bias);
    bias_forward(y, bias);
    const std::vector<double> after = doubles(y);
    for (std::size_t i = 0; i < after.size(); ++i) {
      const double want = before[i] + b[i % static_cast<std::size_t>(n)];
      ASSERT_NEAR(after[i], want, testing::rounding(GetParam()) * std::abs(want)) << rows << " x " << n;
    }
  }
}

TEST_P(Bias, BackwardAddsTheSumOverTheRows) {
  Arena scratch;
  for (const auto& [rows, n] : kShapes) {
    const OwnedTensor dy = random_tensor(GetParam(), {rows, n}, 3);
    const OwnedTensor dbias = random_tensor(DType::F32, {n}, 4);
    std::vector<double> want = doubles(dbias);
    const std::vector<double> grad = doubles(dy);
    for (std::size_t i = 0; i < grad.size(); ++i) want[i % static_cast<std::size_t>(n)] += grad[i];
    bias_backward(dy, dbias, scratch);
    const std::vector<double> got = doubles(dbias);
    for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5) << rows << " x " << n;
  }
}

TEST_P(Bias, ResultsDoNotDependOnTheNumberOfThreads) {
  const OwnedTensor dy = random_tensor(GetParam(), {999, 130}, 5);
  const auto gradient = [&](int threads) {
    const testing::Threads set(threads);
    Arena scratch;
    OwnedTensor dbias(DType::F32, {130});
    bias_backward(dy, dbias, scratch);
    return dbias;
  };
  const OwnedTensor one = gradient(1);
  for (const int threads : {2, 3}) EXPECT_TRUE(same_bits(one, gradient(threads))) << threads << " threads";
}

INSTANTIATE_TEST_SUITE_P(Types, Bias, ::testing::Values(DType::F32, DType::BF16),
                         [](const auto& info) { return dtype_name(info.param); });

TEST(BiasErrors, AnotherWidthIsRefused) {
  const OwnedTensor y(DType::F32, {2, 3}), bias(DType::F32, {4});
  Arena scratch;
  EXPECT_THROW(bias_forward(y, bias), InternalError);
  EXPECT_THROW(bias_backward(y, bias, scratch), InternalError);
}

}  // namespace
}  // namespace nibble
