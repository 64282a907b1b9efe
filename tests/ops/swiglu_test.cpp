#include "nibble/ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

using testing::doubles;
using testing::random_tensor;
using testing::same_bits;

struct Shape {
  std::int64_t rows, width;
};
const Shape kShapes[] = {{1, 1}, {3, 7}, {5, 64}, {2, 513}, {17, 130}};
const DType kTypes[] = {DType::F32, DType::BF16};

double swiglu(double gate, double up) { return gate / (1.0 + std::exp(-gate)) * up; }

TEST(Swiglu, ForwardMatchesTheDefinitionForEveryPairOfTypes) {
  std::uint32_t seed = 1;
  for (const Shape& s : kShapes) {
    for (const DType from : kTypes) {
      for (const DType to : kTypes) {
        SCOPED_TRACE(fmt::format("{} x {} {} -> {} seed {}", s.rows, s.width, dtype_name(from), dtype_name(to), seed));
        const OwnedTensor x = random_tensor(from, {s.rows, 2 * s.width}, seed++, -8.0f, 8.0f);
        const OwnedTensor y(to, {s.rows, s.width});
        swiglu_forward(x, y);
        const std::vector<double> in = doubles(x), got = doubles(y);
        for (std::int64_t t = 0; t < s.rows; ++t) {
          for (std::int64_t j = 0; j < s.width; ++j) {
            const double want = swiglu(in[static_cast<std::size_t>(t * 2 * s.width + j)],
                                       in[static_cast<std::size_t>(t * 2 * s.width + s.width + j)]);
            ASSERT_NEAR(got[static_cast<std::size_t>(t * s.width + j)], want,
                        (5e-7 + testing::rounding(to)) * std::fabs(want))
                << t << ", " << j;
          }
        }
      }
    }
  }
}

TEST(Swiglu, BackwardMatchesCentralDifferencesForEveryTripleOfTypes) {
  constexpr double kStep = 1e-5;
  std::uint32_t seed = 100;
  for (const Shape& s : kShapes) {
    for (const DType d : kTypes) {
      for (const DType from : kTypes) {
        for (const DType to : kTypes) {
          SCOPED_TRACE(fmt::format("{} x {} {} {} -> {} seed {}", s.rows, s.width, dtype_name(d), dtype_name(from),
                                   dtype_name(to), seed));
          const OwnedTensor x = random_tensor(from, {s.rows, 2 * s.width}, seed++, -8.0f, 8.0f);
          const OwnedTensor dy = random_tensor(d, {s.rows, s.width}, seed++);
          const OwnedTensor dx(to, {s.rows, 2 * s.width});
          swiglu_backward(dy, x, dx);
          const std::vector<double> in = doubles(x), weight = doubles(dy), got = doubles(dx);
          for (std::int64_t t = 0; t < s.rows; ++t) {
            for (std::int64_t j = 0; j < s.width; ++j) {
              const auto g = static_cast<std::size_t>(t * 2 * s.width + j);
              const auto u = g + static_cast<std::size_t>(s.width);
              const double w = weight[static_cast<std::size_t>(t * s.width + j)];
              const double dgate = w * (swiglu(in[g] + kStep, in[u]) - swiglu(in[g] - kStep, in[u])) / (2 * kStep);
              const double dup = w * (swiglu(in[g], in[u] + kStep) - swiglu(in[g], in[u] - kStep)) / (2 * kStep);
              const double r = testing::rounding(to);
              ASSERT_NEAR(got[g], dgate, 5e-6 + r * std::fabs(dgate)) << "dgate " << t << ", " << j;
              ASSERT_NEAR(got[u], dup, 5e-6 + r * std::fabs(dup)) << "dup " << t << ", " << j;
            }
          }
        }
      }
    }
  }
}

TEST(Swiglu, BackwardInPlaceGivesTheSameBits) {
  for (const DType type : kTypes) {
    const OwnedTensor x = random_tensor(type, {9, 2 * 77}, 3);
    const OwnedTensor dy = random_tensor(type, {9, 77}, 4);
    const OwnedTensor apart(type, {9, 2 * 77});
    swiglu_backward(dy, x, apart);
    swiglu_backward(dy, x, x);
    EXPECT_TRUE(same_bits(apart, x)) << dtype_name(type);
  }
}

TEST(Swiglu, LargeGatesSaturateWithoutNan) {
  for (const float gate : {100.0f, 1000.0f, 1e30f}) {
    float x[4] = {gate, -gate, 1.5f, 1.5f};
    float y[2];
    float dy[2] = {1.0f, 1.0f};
    float dx[4];
    swiglu_forward(Tensor::of(x, {1, 4}), Tensor::of(y, {1, 2}));
    EXPECT_EQ(y[0], gate * 1.5f);
    EXPECT_EQ(y[1], 0.0f);
    swiglu_backward(Tensor::of(dy, {1, 2}), Tensor::of(x, {1, 4}), Tensor::of(dx, {1, 4}));
    EXPECT_EQ(dx[0], 1.5f);
    EXPECT_EQ(dx[1], 0.0f);
    EXPECT_EQ(dx[2], gate);
    EXPECT_EQ(dx[3], 0.0f);
  }
}

TEST(Swiglu, ResultsDoNotDependOnTheNumberOfThreads) {
  for (const DType type : kTypes) {
    const OwnedTensor x = random_tensor(type, {301, 2 * 515}, 5);
    const OwnedTensor dy = random_tensor(type, {301, 515}, 6);
    const OwnedTensor y1(type, {301, 515}), y(type, {301, 515});
    const OwnedTensor dx1(type, {301, 2 * 515}), dx(type, {301, 2 * 515});
    {
      const testing::Threads threads(1);
      swiglu_forward(x, y1);
      swiglu_backward(dy, x, dx1);
    }
    for (const int count : {2, 3}) {
      const testing::Threads threads(count);
      swiglu_forward(x, y);
      swiglu_backward(dy, x, dx);
      EXPECT_TRUE(same_bits(y, y1)) << count << " threads";
      EXPECT_TRUE(same_bits(dx, dx1)) << count << " threads";
    }
  }
}

TEST(Swiglu, NoRowsIsNoWork) {
  const OwnedTensor x(DType::F32, {0, 8}), y(DType::F32, {0, 4});
  EXPECT_NO_THROW(swiglu_forward(x, y));
  EXPECT_NO_THROW(swiglu_backward(y, x, x));
}

TEST(Swiglu, AWidthThatDoesNotFitIsRefused) {
  const OwnedTensor x(DType::F32, {2, 8}), y(DType::F32, {2, 3});
  EXPECT_THROW(swiglu_forward(x, y), InternalError);
  EXPECT_THROW(swiglu_backward(y, x, x), InternalError);
}

}  // namespace
}  // namespace nibble
