#include "nibble/dist/rank_sum.h"

#include <gtest/gtest.h>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::doubles;
using testing_support::random_tensor;

/// x[lo] + ... + x[hi - 1] by the tree's definition.
float tree_sum(const std::vector<float>& x, std::size_t lo, std::size_t hi) {
  if (hi - lo == 1) return x[lo];
  std::size_t half = 1;
  while (half * 2 < hi - lo) half *= 2;
  return tree_sum(x, lo, lo + half) + tree_sum(x, lo + half, hi);
}

TEST(RankSum, AddsAlongTheTree) {
  for (int ranks = 1; ranks <= 9; ++ranks) {
    for (const std::int64_t n : {0, 1, 5, 4096, 9001}) {
      for (const DType dtype : {DType::F32, DType::BF16}) {
        const OwnedTensor pieces = random_tensor(dtype, {ranks * n}, 7, 1000.0f);
        const std::vector<double> x = doubles(pieces);
        const OwnedTensor to(dtype, {n});
        reduce_pieces(pieces, ranks, to, Reduce::Sum);
        const std::vector<double> got = doubles(to);
        for (std::int64_t i = 0; i < n; ++i) {
          std::vector<float> column;
          for (int r = 0; r < ranks; ++r) column.push_back(static_cast<float>(x[static_cast<std::size_t>(r * n + i)]));
          const float sum = tree_sum(column, 0, column.size());
          ASSERT_EQ(got[static_cast<std::size_t>(i)], dtype == DType::F32 ? sum : bf16_round(sum))
              << i << " of " << n << ", " << ranks << " ranks, " << dtype_name(dtype);
        }
      }
    }
  }
}

TEST(RankSum, IntegersWrapAround) {
  std::vector<std::int32_t> pieces{2'000'000'000, -5, 2'000'000'000, 7};
  std::vector<std::int32_t> to(2);
  reduce_pieces(Tensor::of(pieces.data(), {4}), 2, Tensor::of(to.data(), {2}), Reduce::Sum);
  EXPECT_EQ(to, (std::vector<std::int32_t>{-294'967'296, 2}));
}

TEST(RankSum, TakesTheLargest) {
  std::vector<float> pieces{-1, 3, -2, 4, -0.5f, -7};
  std::vector<float> to(2);
  reduce_pieces(Tensor::of(pieces.data(), {6}), 3, Tensor::of(to.data(), {2}), Reduce::Max);
  EXPECT_EQ(to, (std::vector<float>{-0.5f, 4}));
  std::vector<std::uint8_t> bytes{200, 3, 9, 201};
  std::vector<std::uint8_t> largest(2);
  reduce_pieces(Tensor::of(bytes.data(), {4}), 2, Tensor::of(largest.data(), {2}), Reduce::Max);
  EXPECT_EQ(largest, (std::vector<std::uint8_t>{200, 201}));
}

TEST(RankSum, AddsNoCodes) {
  std::vector<std::uint8_t> bytes(4), to(2);
  EXPECT_THROW(reduce_pieces(Tensor::of(bytes.data(), {4}), 2, Tensor::of(to.data(), {2}), Reduce::Sum), InternalError);
}

}  // namespace
}  // namespace nibble
