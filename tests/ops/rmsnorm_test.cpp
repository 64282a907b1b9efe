#include "nibble/ops/rmsnorm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kEps = 1e-5f;
constexpr std::initializer_list<std::array<std::int64_t, 2>> kShapes = {{1, 1},    {3, 7},    {5, 16},
                                                                        {33, 100}, {70, 769}, {2, 4096}};
constexpr DType kTypes[] = {DType::F32, DType::BF16};

struct Oracle {
  std::int64_t rows, d;

  double rstd(const std::vector<double>& x, std::int64_t t) const {
    double squares = 0;
    for (std::int64_t i = 0; i < d; ++i) squares += at(x, t, i) * at(x, t, i);
    return 1 / std::sqrt(squares / static_cast<double>(d) + static_cast<double>(kEps));
  }
  std::vector<double> forward(const std::vector<double>& x, const std::vector<double>& gain) const {
    std::vector<double> y;
    for (std::int64_t t = 0; t < rows; ++t) {
      for (std::int64_t i = 0; i < d; ++i) y.push_back(at(x, t, i) * rstd(x, t) * gain[static_cast<std::size_t>(i)]);
    }
    return y;
  }
  void backward(const std::vector<double>& dy, const std::vector<double>& x, const std::vector<double>& gain,
                std::vector<double>& dx, std::vector<double>& dgain) const {
    for (std::int64_t t = 0; t < rows; ++t) {
      const double r = rstd(x, t);
      double dot = 0;
      for (std::int64_t i = 0; i < d; ++i) dot += gain[static_cast<std::size_t>(i)] * at(dy, t, i) * at(x, t, i);
      for (std::int64_t i = 0; i < d; ++i) {
        const auto j = static_cast<std::size_t>(i);
        dx[static_cast<std::size_t>(t * d + i)] +=
            r * (gain[j] * at(dy, t, i) - at(x, t, i) * r * r * dot / static_cast<double>(d));
        dgain[j] += at(dy, t, i) * at(x, t, i) * r;
      }
    }
  }
  double at(const std::vector<double>& m, std::int64_t t, std::int64_t i) const {
    return m[static_cast<std::size_t>(t * d + i)];
  }
};

// |got - want| within `relative` of want plus `absolute`.
void expect_close(const Tensor& got, const std::vector<double>& want, double relative, double absolute) {
  const std::vector<double> values = doubles(got);
  ASSERT_EQ(values.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(values[i], want[i], relative * std::abs(want[i]) + absolute) << "element " << i;
  }
}

TEST(RmsNorm, ForwardAgreesWithTheDoubleOracle) {
  for (const auto& [rows, d] : kShapes) {
    for (DType in : kTypes) {
      for (DType out : kTypes) {
        SCOPED_TRACE(fmt::format("[{}, {}] {} to {}, seeds 1, 2", rows, d, dtype_name(in), dtype_name(out)));
        const OwnedTensor x = random_tensor(in, {rows, d}, 1, 3.0f);
        const OwnedTensor gain = random_tensor(DType::F32, {d}, 2);
        const OwnedTensor y(out, {rows, d});
        const OwnedTensor rstd(DType::F32, {rows});
        rmsnorm_forward(x, gain, kEps, y, rstd);
        const Oracle oracle{rows, d};
        expect_close(y, oracle.forward(doubles(x), doubles(gain)), out == DType::F32 ? 2e-6 : 0x1.02p-8, 1e-30);
        for (std::int64_t t = 0; t < rows; ++t) {
          const double want = oracle.rstd(doubles(x), t);
          ASSERT_NEAR(rstd.view().data<float>()[t], want, 1e-6 * want);
        }
      }
    }
  }
}

TEST(RmsNorm, TheOracleGradientIsTheCentralDifferenceOfTheOracle) {
  const Oracle oracle{3, 9};
  std::vector<double> x = doubles(random_tensor(DType::F32, {3, 9}, 3));
  std::vector<double> gain = doubles(random_tensor(DType::F32, {9}, 4));
  const std::vector<double> dy = doubles(random_tensor(DType::F32, {3, 9}, 5));
  std::vector<double> dx(x.size());
  std::vector<double> dgain(gain.size());
  oracle.backward(dy, x, gain, dx, dgain);
  const auto loss = [&] {
    const std::vector<double> y = oracle.forward(x, gain);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
    return sum;
  };
  const auto expect_gradient = [&](std::vector<double>& values, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double centre = values[i];
      constexpr double kH = 1e-5;
      values[i] = centre + kH;
      const double up = loss();
      values[i] = centre - kH;
      const double down = loss();
      values[i] = centre;
      EXPECT_NEAR(gradient[i], (up - down) / (2 * kH), 1e-8);
    }
  };
  expect_gradient(x, dx);
  expect_gradient(gain, dgain);
}

TEST(RmsNorm, BackwardAddsTheOracleGradient) {
  for (const auto& [rows, d] : kShapes) {
    for (DType grad : kTypes) {
      for (DType in : kTypes) {
        SCOPED_TRACE(fmt::format("[{}, {}] dy {}, x {}, seeds 6..10", rows, d, dtype_name(grad), dtype_name(in)));
        const OwnedTensor x = random_tensor(in, {rows, d}, 6, 2.0f);
        const OwnedTensor gain = random_tensor(DType::F32, {d}, 7);
        const OwnedTensor dy = random_tensor(grad, {rows, d}, 8);
        const OwnedTensor dx = random_tensor(DType::F32, {rows, d}, 9);
        const OwnedTensor dgain = random_tensor(DType::F32, {d}, 10);
        std::vector<double> want_dx = doubles(dx);
        std::vector<double> want_dgain = doubles(dgain);
        Oracle{rows, d}.backward(doubles(dy), doubles(x), doubles(gain), want_dx, want_dgain);
        const OwnedTensor y(DType::F32, {rows, d});
        const OwnedTensor rstd(DType::F32, {rows});
        rmsnorm_forward(x, gain, kEps, y, rstd);
        Arena scratch;
        rmsnorm_backward(dy, x, gain, rstd, dx, dgain, scratch);
        expect_close(dx, want_dx, 2e-6, 3e-6);
        expect_close(dgain, want_dgain, 2e-6, 2e-5);
      }
    }
  }
}

TEST(RmsNorm, TheGainGradientOfManyRowsStaysAccurate) {
  constexpr std::int64_t kRows = 20000;
  const OwnedTensor x = random_tensor(DType::F32, {kRows, 3}, 11);
  const OwnedTensor dy = random_tensor(DType::F32, {kRows, 3}, 12);
  const OwnedTensor gain = random_tensor(DType::F32, {3}, 13);
  const OwnedTensor y(DType::F32, {kRows, 3});
  const OwnedTensor rstd(DType::F32, {kRows});
  const OwnedTensor dx(DType::F32, {kRows, 3});
  const OwnedTensor dgain(DType::F32, {3});
  rmsnorm_forward(x, gain, kEps, y, rstd);
  Arena scratch;
  rmsnorm_backward(dy, x, gain, rstd, dx, dgain, scratch);
  std::vector<double> want_dx(static_cast<std::size_t>(kRows * 3));
  std::vector<double> want(3);
  Oracle{kRows, 3}.backward(doubles(dy), doubles(x), doubles(gain), want_dx, want);
  expect_close(dgain, want, 0, 1e-3);  // sums of 20000 terms of size 1: about 141
}

TEST(RmsNorm, TheBitsDoNotDependOnTheNumberOfThreads) {
  constexpr std::int64_t kRows = 333;
  constexpr std::int64_t kCols = 517;
  const OwnedTensor x = random_tensor(DType::BF16, {kRows, kCols}, 14);
  const OwnedTensor gain = random_tensor(DType::F32, {kCols}, 15);
  const OwnedTensor dy = random_tensor(DType::F32, {kRows, kCols}, 16);
  const auto run = [&](int threads) {
    const ThreadCount scope(threads);
    const OwnedTensor y(DType::F32, {kRows, kCols});
    const OwnedTensor rstd(DType::F32, {kRows});
    const OwnedTensor dx(DType::F32, {kRows, kCols});
    const OwnedTensor dgain(DType::F32, {kCols});
    Arena scratch;
    rmsnorm_forward(x, gain, kEps, y, rstd);
    rmsnorm_backward(dy, x, gain, rstd, dx, dgain, scratch);
    return std::vector{bytes_of(y), bytes_of(rstd), bytes_of(dx), bytes_of(dgain)};
  };
  const auto one = run(1);
  for (int threads : {2, 3, 7}) EXPECT_EQ(run(threads), one) << threads << " threads";
}

TEST(RmsNorm, ARowOfZerosStaysZeroAndItsGradientFinite) {
  const OwnedTensor x(DType::F32, {1, 20});
  const OwnedTensor gain = random_tensor(DType::F32, {20}, 17);
  const OwnedTensor y(DType::F32, {1, 20});
  const OwnedTensor rstd(DType::F32, {1});
  rmsnorm_forward(x, gain, kEps, y, rstd);
  for (double v : doubles(y)) EXPECT_EQ(v, 0);
  EXPECT_NEAR(*rstd.view().data<float>(), 1 / std::sqrt(1e-5), 1e-3);
  const OwnedTensor dx(DType::F32, {1, 20});
  const OwnedTensor dgain(DType::F32, {20});
  Arena scratch;
  rmsnorm_backward(gain, x, gain, rstd, dx, dgain, scratch);
  for (double v : doubles(dx)) EXPECT_TRUE(std::isfinite(v));
}

TEST(RmsNorm, NoRowsIsNoWorkAndAWrongShapeIsRefused) {
  const OwnedTensor none(DType::F32, {0, 8});
  const OwnedTensor gain = random_tensor(DType::F32, {8}, 18);
  const OwnedTensor dgain(DType::F32, {8});
  const OwnedTensor rstd(DType::F32, {0});
  Arena scratch;
  rmsnorm_forward(none, gain, kEps, none, rstd);
  rmsnorm_backward(none, none, gain, rstd, none, dgain, scratch);
  for (double v : doubles(dgain)) EXPECT_EQ(v, 0);
  const OwnedTensor two(DType::F32, {2, 8});
  EXPECT_THROW(rmsnorm_forward(two, gain, kEps, two, rstd), InternalError);
}

}  // namespace
}  // namespace nibble
