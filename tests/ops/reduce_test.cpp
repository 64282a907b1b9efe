#include "nibble/ops/reduce.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kSizes[] = {0, 1, 15, 16, 17, 1000, 32768, 100003};  // the last: several chunks and a rest

TEST(SumOfSquares, AgreesWithALongDoubleSum) {
  for (std::int64_t n : kSizes) {
    SCOPED_TRACE(n);
    const OwnedTensor x = random_tensor(DType::F32, {n}, 21);
    long double want = 0;
    for (double v : doubles(x)) want += static_cast<long double>(v) * v;
    EXPECT_NEAR(sum_of_squares(x), static_cast<double>(want), 1e-13 * static_cast<double>(want));
  }
}

TEST(SumOfSquares, DoesNotOverflowWhereFloatWould) {
  const OwnedTensor x(DType::F32, {40});
  for (int i = 0; i < 40; ++i) x.view().data<float>()[i] = -1e30f;
  EXPECT_NEAR(sum_of_squares(x), 40e60, 1e55);
}

TEST(SumOfSquares, TheBitsDoNotDependOnTheNumberOfThreads) {
  const OwnedTensor x = random_tensor(DType::F32, {300001}, 22);
  const auto run = [&](int threads) {
    const ThreadCount scope(threads);
    return sum_of_squares(x);
  };
  const double one = run(1);
  for (int threads : {2, 3, 7}) EXPECT_EQ(run(threads), one) << threads << " threads";
}

TEST(SumOfSquares, NaNAndInfinityShowWhereverTheyStand) {
  const OwnedTensor x = random_tensor(DType::F32, {70001}, 23);
  float* p = x.view().data<float>();
  for (std::int64_t i : {0, 17, 32767, 32768, 69999, 70000}) {
    const float before = p[i];
    p[i] = kNaN;
    EXPECT_TRUE(std::isnan(sum_of_squares(x))) << i;
    p[i] = -kInf;
    EXPECT_EQ(sum_of_squares(x), kInf) << i;
    p[i] = before;
  }
  EXPECT_TRUE(std::isfinite(sum_of_squares(x)));
}

TEST(SquaresOfChunks, ArePartialSumsThatPiecesShareWithTheWhole) {
  constexpr std::int64_t kChunk = 48;
  const auto sums_of = [](const Tensor& x) {
    const std::int64_t chunks = (x.numel() + kChunk - 1) / kChunk;
    std::vector<double> sums(static_cast<std::size_t>(chunks));
    squares_of_chunks(x, kChunk, Tensor::of(reinterpret_cast<std::uint8_t*>(sums.data()), {8 * chunks}));
    return sums;
  };
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t n : kSizes) {
      SCOPED_TRACE(n);
      const OwnedTensor x = random_tensor(dtype, {n}, 24);
      const std::vector<double> sums = sums_of(x);
      const std::vector<double> values = doubles(x);
      for (std::size_t c = 0; c < sums.size(); ++c) {
        long double want = 0;
        for (std::size_t i = c * kChunk; i < std::min(values.size(), (c + 1) * kChunk); ++i) {
          want += static_cast<long double>(values[i]) * values[i];
        }
        EXPECT_NEAR(sums[c], static_cast<double>(want), 1e-14 * static_cast<double>(want));
      }
      const std::int64_t border = std::min(n, 7 * kChunk);
      std::vector<double> both = sums_of(x.view().elements(0, border));
      const std::vector<double> rest = sums_of(x.view().elements(border, n));
      both.insert(both.end(), rest.begin(), rest.end());
      EXPECT_EQ(both, sums);
    }
  }
}

TEST(FirstNonFinite, NamesTheFirstIndex) {
  for (DType dtype : {DType::F32, DType::BF16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const OwnedTensor clean = random_tensor(dtype, {100003}, 24);
    EXPECT_EQ(first_non_finite(clean), -1);
    for (std::int64_t i : {0, 33, 32767, 32768, 99999, 100002}) {
      for (float bad : {kNaN, kInf, -kInf}) {
        const OwnedTensor x = random_tensor(dtype, {100003}, 24);
        dispatch_float(dtype, [&]<class T>(T*) {
          x.view().data<T>()[i] = from_float<T>(bad);
          x.view().data<T>()[100002] = from_float<T>(kNaN);
        });
        for (int threads : {1, 3}) {
          const ThreadCount scope(threads);
          EXPECT_EQ(first_non_finite(x), i);
        }
      }
    }
  }
}

TEST(FirstNonFinite, TheLargestFiniteValuesAreFinite) {
  const OwnedTensor x(DType::F32, {3});
  x.view().data<float>()[0] = std::numeric_limits<float>::max();
  x.view().data<float>()[1] = std::numeric_limits<float>::lowest();
  x.view().data<float>()[2] = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(first_non_finite(x), -1);
  EXPECT_EQ(first_non_finite(OwnedTensor(DType::BF16, {0})), -1);
}

TEST(ScaleInPlace, MultipliesEveryElement) {
  for (std::int64_t n : kSizes) {
    const OwnedTensor x = random_tensor(DType::F32, {n}, 25);
    const std::vector<double> before = doubles(x);
    scale_in_place(x, 0.3f);
    const float* p = x.view().data<float>();
    for (std::int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(p[i], static_cast<float>(before[static_cast<std::size_t>(i)]) * 0.3f) << i << " of " << n;
    }
  }
}

TEST(AddInPlace, AddsF32AndBf16) {
  for (const DType sum : {DType::F32, DType::BF16}) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      for (const std::int64_t n : kSizes) {
        const OwnedTensor to = random_tensor(sum, {n}, 26);
        const OwnedTensor from = random_tensor(dtype, {n}, 27);
        const std::vector<double> before = doubles(to);
        const std::vector<double> added = doubles(from);
        add_in_place(to, from);
        const std::vector<double> after = doubles(to);
        for (std::size_t i = 0; i < before.size(); ++i) {
          const auto wide = static_cast<float>(before[i] + added[i]);
          const float expected = sum == DType::F32 ? wide : bf16_decode(bf16_encode(wide));
          ASSERT_EQ(after[i], expected) << i << " of " << n;
        }
      }
    }
  }
  EXPECT_THROW(add_in_place(OwnedTensor(DType::F32, {3}), OwnedTensor(DType::F32, {4})), InternalError);
}

}  // namespace
}  // namespace nibble
