#include <limits>

#include "nibble/ops/reduce.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

// More than one turn of all threads with every load at once (4.3 million floats), less than one, and odd ends.
constexpr std::int64_t kSizes[] = {0, 1, 3, 7, 255, 1024, 100'003, 1'081'345, 5'000'001};

TEST(CudaReduce, SumOfSquaresIsTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : kSizes) {
    SCOPED_TRACE(n);
    const OwnedTensor x = random_tensor(DType::F32, {n}, 1, 3.0f);
    const double expected = sum_of_squares(x);
    const double got = sum_of_squares(on_gpu(x));
    EXPECT_NEAR(got, expected, 1e-12 * expected);
    EXPECT_EQ(got, sum_of_squares(on_gpu(x))) << "a second call";
    EXPECT_NEAR(sum_of_squares(Misaligned(x)), expected, 1e-12 * expected);
  }
}

TEST(CudaReduce, SumOfSquaresOfHugeValuesIsFiniteAndOfInfinityIsNot) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x(DType::F32, {1000});
  x.view().data<float>()[999] = 1e30f;
  EXPECT_EQ(sum_of_squares(on_gpu(x)), static_cast<double>(1e30f) * static_cast<double>(1e30f));
  x.view().data<float>()[500] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isinf(sum_of_squares(on_gpu(x))));
  x.view().data<float>()[1] = std::nanf("");
  EXPECT_TRUE(std::isnan(sum_of_squares(on_gpu(x))));
}

TEST(CudaReduce, SquaresOfChunksAreTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t n : {std::int64_t{1}, std::int64_t{255}, std::int64_t{1024}, std::int64_t{1'081'345}}) {
      for (const std::int64_t chunk : {1, 250, 4096}) {
        SCOPED_TRACE(fmt::format("{} by {}", n, chunk));
        const OwnedTensor x = random_tensor(dtype, {n}, 7, 3.0f);
        const std::int64_t chunks = (n + chunk - 1) / chunk;
        std::vector<double> expected(static_cast<std::size_t>(chunks));
        std::vector<double> got(expected.size());
        const Tensor there = Tensor::of(reinterpret_cast<std::uint8_t*>(expected.data()), {8 * chunks});
        squares_of_chunks(x, chunk, there);
        const OwnedTensor sums(DType::U8, {8 * chunks}, Device::Cuda);
        squares_of_chunks(on_gpu(x), chunk, sums);
        copy(sums, Tensor::of(reinterpret_cast<std::uint8_t*>(got.data()), {8 * chunks}));
        for (std::size_t c = 0; c < got.size(); ++c) ASSERT_NEAR(got[c], expected[c], 1e-12 * expected[c]) << c;
      }
    }
  }
}

TEST(CudaReduce, ScalingHasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : kSizes) {
    SCOPED_TRACE(n);
    const OwnedTensor x = random_tensor(DType::F32, {n}, 1);
    const OwnedTensor gpu_x = on_gpu(x);
    const Misaligned misaligned(x);
    scale_in_place(x, 0.37f);
    scale_in_place(gpu_x, 0.37f);
    scale_in_place(misaligned, 0.37f);
    expect_same_bits(x, gpu_x, "x");
    expect_same_bits(x, misaligned, "misaligned x");
  }
}

TEST(CudaReduce, AddingHasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : kSizes) {
    for (const DType sum : kFloatTypes) {
      for (const DType dtype : kFloatTypes) {
        SCOPED_TRACE(fmt::format("{} {} += {}", n, dtype_name(sum), dtype_name(dtype)));
        const OwnedTensor to = random_tensor(sum, {n}, 1);
        const OwnedTensor from = random_tensor(dtype, {n}, 2);
        const OwnedTensor gpu_to = on_gpu(to);
        const OwnedTensor from_misaligned = on_gpu(to);
        add_in_place(to, from);
        add_in_place(gpu_to, on_gpu(from));
        add_in_place(from_misaligned, Misaligned(from));
        expect_same_bits(to, gpu_to, "to");
        expect_same_bits(to, from_misaligned, "to, from a misaligned tensor");
      }
    }
  }
}

TEST(CudaReduce, FirstNonFiniteIsTheFirst) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : kSizes) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(fmt::format("{} {}", n, dtype_name(dtype)));
      const OwnedTensor x = random_tensor(dtype, {n}, 1);
      EXPECT_EQ(first_non_finite(on_gpu(x)), -1);
      if (n == 0) continue;
      const auto put = [&](std::int64_t i, float value) {
        dispatch_float(dtype, [&]<class T>(T*) { x.view().data<T>()[i] = from_float<T>(value); });
      };
      put(n - 1, std::nanf(""));
      EXPECT_EQ(first_non_finite(on_gpu(x)), n - 1);
      put(n / 2, -std::numeric_limits<float>::infinity());
      EXPECT_EQ(first_non_finite(on_gpu(x)), n / 2);
      EXPECT_EQ(first_non_finite(Misaligned(x)), n / 2);
      put(n / 3, std::numeric_limits<float>::infinity());
      EXPECT_EQ(first_non_finite(on_gpu(x)), n / 3);
    }
  }
}

}  // namespace
}  // namespace nibble
