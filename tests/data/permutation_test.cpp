#include "nibble/data/permutation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "nibble/tensor/error.h"

namespace nibble {
namespace {

std::vector<std::int64_t> order_of(const Permutation& permutation) {
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < permutation.size(); ++i) order.push_back(permutation(i));
  return order;
}

TEST(Permutation, IsABijectionForEverySize) {
  std::vector<std::int64_t> sizes = {1023, 1024, 1025, 4095, 4096, 4097, 65536, 65537, 100003};
  for (std::int64_t n = 1; n <= 300; ++n) sizes.push_back(n);
  for (const std::int64_t n : sizes) {
    for (const std::uint64_t seed : {0u, 1234u}) {
      SCOPED_TRACE(testing::Message() << "n " << n << ", seed " << seed);
      const Permutation permutation(n, seed, 3);
      std::vector<bool> seen(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t to = permutation(i);
        ASSERT_GE(to, 0);
        ASSERT_LT(to, n);
        ASSERT_FALSE(seen[static_cast<std::size_t>(to)]);
        seen[static_cast<std::size_t>(to)] = true;
      }
    }
  }
}

TEST(Permutation, DependsOnEveryBitOfSeedAndEpoch) {
  const auto base = order_of(Permutation(1000, 0, 0));
  EXPECT_EQ(order_of(Permutation(1000, 0, 0)), base);
  for (int bit = 0; bit < 62; ++bit) {
    EXPECT_NE(order_of(Permutation(1000, std::uint64_t{1} << bit, 0)), base) << bit;
    EXPECT_NE(order_of(Permutation(1000, 0, std::int64_t{1} << bit)), base) << bit;
  }
}

TEST(Permutation, WorksForHugeSizes) {
  for (const std::int64_t n : {(std::int64_t{1} << 40) + 1, std::int64_t{1} << 62}) {
    const Permutation permutation(n, 5, 6);
    for (const std::int64_t i : {std::int64_t{0}, n / 2, n - 1}) {
      EXPECT_GE(permutation(i), 0);
      EXPECT_LT(permutation(i), n);
    }
  }
}

// Over many epochs, position i goes to each of n places equally often: chi-square with n - 1 degrees of freedom, mean
// n - 1, standard deviation sqrt(2 (n - 1)); six of them are never reached by chance, and the seeds are fixed.
TEST(Permutation, SendsEachPositionEverywhereEquallyOften) {
  for (const std::int64_t n : {2, 3, 5, 7, 16, 33, 100}) {
    for (const std::int64_t i : {std::int64_t{0}, n / 2, n - 1}) {
      SCOPED_TRACE(testing::Message() << "n " << n << ", position " << i);
      const std::int64_t epochs = 200 * n;
      std::vector<double> count(static_cast<std::size_t>(n));
      for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
        count[static_cast<std::size_t>(Permutation(n, 42, epoch)(i))] += 1;
      }
      double chi2 = 0;
      for (const double c : count) chi2 += (c - 200) * (c - 200) / 200;
      const double freedom = static_cast<double>(n - 1);
      EXPECT_LT(chi2, freedom + 6 * std::sqrt(2 * freedom));
    }
  }
}

// Neighbours stay neighbours with probability about 2 / n, and the order has no trend.
TEST(Permutation, LooksRandom) {
  const std::int64_t n = 20000;
  const auto order = order_of(Permutation(n, 9, 0));
  int neighbours = 0;
  double correlation = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (i > 0) neighbours += std::abs(order[at] - order[at - 1]) == 1;
    const double mean = static_cast<double>(n - 1) / 2;
    correlation += (static_cast<double>(i) - mean) * (static_cast<double>(order[at]) - mean);
  }
  correlation /= std::pow(static_cast<double>(n), 3) / 12;
  EXPECT_LT(neighbours, 12);  // Poisson of mean 2
  EXPECT_LT(std::abs(correlation), 6 / std::sqrt(static_cast<double>(n)));
}

TEST(Permutation, RefusesSizesAndPositionsThatDoNotExist) {
  EXPECT_THROW(Permutation(0, 0, 0), InternalError);
  EXPECT_THROW(Permutation(5, 0, 0)(5), InternalError);
  EXPECT_THROW(Permutation(5, 0, 0)(-1), InternalError);
}

}  // namespace
}  // namespace nibble
