#include "nibble/ops/spmm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

/// A sparse matrix with its memory.
struct Sparse {
  std::vector<std::int32_t> row_begin, col;
  std::vector<float> value;
  CsrMatrix m;
};

Sparse random_sparse(std::int64_t rows, std::int64_t cols, double density, unsigned seed) {
  std::mt19937 random(seed);
  std::bernoulli_distribution present(density);
  std::normal_distribution<float> normal;
  Sparse s;
  s.row_begin.push_back(0);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      // Some rows stay empty.
      if (r % 5 == 3 || !present(random)) continue;
      s.col.push_back(static_cast<std::int32_t>(c));
      s.value.push_back(normal(random));
    }
    s.row_begin.push_back(static_cast<std::int32_t>(s.col.size()));
  }
  s.m.rows = rows;
  s.m.cols = cols;
  s.m.row_begin = Tensor::of(s.row_begin.data(), {rows + 1});
  s.m.col = Tensor::of(s.col.data(), {static_cast<std::int64_t>(s.col.size())});
  s.m.value = Tensor::of(s.value.data(), {static_cast<std::int64_t>(s.value.size())});
  return s;
}

OwnedTensor random_matrix(DType dtype, std::int64_t rows, std::int64_t cols, unsigned seed) {
  return testing::random_tensor(dtype, {rows, cols}, seed);
}

float at(const Tensor& x, std::int64_t r, std::int64_t c) {
  const std::int64_t i = r * x.cols() + c;
  return x.dtype() == DType::F32 ? x.data<float>()[i] : bf16_decode(x.data<bf16>()[i]);
}

struct Extent {
  std::int64_t t, k, n;
};
constexpr Extent kExtents[] = {{1, 1, 1}, {7, 5, 3}, {70, 130, 64}, {33, 1030, 65}, {65, 513, 257}, {100, 64, 300}};
constexpr DType kDTypes[] = {DType::F32, DType::BF16};

TEST(Spmm, FpropAddsTheProductWithTheSparseMatrix) {
  for (const Extent& s : kExtents) {
    for (const DType w_type : kDTypes) {
      for (const DType y_type : kDTypes) {
        SCOPED_TRACE(fmt::format("T {} K {} N {} {} {}", s.t, s.k, s.n, dtype_name(w_type), dtype_name(y_type)));
        const Sparse x = random_sparse(s.t, s.k, 0.05, 1);
        const OwnedTensor w = random_matrix(w_type, s.k, s.n, 2);
        const OwnedTensor y = random_matrix(y_type, s.t, s.n, 3);
        const OwnedTensor before = random_matrix(y_type, s.t, s.n, 3);
        Arena arena;
        spmm_fprop(x.m, w, y, arena);
        for (std::int64_t t = 0; t < s.t; ++t) {
          for (std::int64_t n = 0; n < s.n; ++n) {
            double sum = 0;
            double magnitude = 0;
            const std::int32_t* row = x.row_begin.data() + t;
            for (std::int32_t i = row[0]; i < row[1]; ++i) {
              const double p = static_cast<double>(x.value[static_cast<std::size_t>(i)]) *
                               at(w, x.col[static_cast<std::size_t>(i)], n);
              sum += p;
              magnitude += std::fabs(p);
            }
            const double expected = at(before, t, n) + sum;
            const double unit = testing::rounding(y_type);
            ASSERT_NEAR(at(y, t, n), expected, 8 * 0x1p-24 * magnitude + unit * std::fabs(expected)) << t << ", " << n;
          }
        }
      }
    }
  }
}

TEST(Spmm, WgradAddsTheTransposedProductInAscendingRows) {
  for (const Extent& s : kExtents) {
    for (const DType type : kDTypes) {
      SCOPED_TRACE(fmt::format("T {} K {} N {} {}", s.t, s.k, s.n, dtype_name(type)));
      const Sparse x = random_sparse(s.t, s.k, 0.05, 1);
      const OwnedTensor dy = random_matrix(type, s.t, s.n, 2);
      const OwnedTensor dw = random_matrix(DType::F32, s.n, s.k, 3);
      const OwnedTensor before = random_matrix(DType::F32, s.n, s.k, 3);
      // The documented order, in the same arithmetic: equal to the last bit.
      std::vector<float> sums(static_cast<std::size_t>(s.n * s.k), 0.0f);
      for (std::int64_t t = 0; t < s.t; ++t) {
        const std::int32_t* row = x.row_begin.data() + t;
        for (std::int32_t i = row[0]; i < row[1]; ++i) {
          for (std::int64_t n = 0; n < s.n; ++n) {
            const float p = x.value[static_cast<std::size_t>(i)] * at(dy, t, n);
            sums[static_cast<std::size_t>(n * s.k + x.col[static_cast<std::size_t>(i)])] += p;
          }
        }
      }
      Arena arena;
      spmm_wgrad(x.m, dy, dw, arena);
      for (std::int64_t n = 0; n < s.n; ++n) {
        for (std::int64_t k = 0; k < s.k; ++k) {
          ASSERT_EQ(at(dw, n, k), at(before, n, k) + sums[static_cast<std::size_t>(n * s.k + k)]) << n << ", " << k;
        }
      }
      EXPECT_EQ(arena.mark().offset, 0u);
    }
  }
}

TEST(Spmm, OneToFourThreadsGiveTheSameBits) {
  const Extent s{150, 700, 300};
  const Sparse x = random_sparse(s.t, s.k, 0.03, 1);
  const OwnedTensor w = random_matrix(DType::BF16, s.k, s.n, 2);
  const OwnedTensor dy = random_matrix(DType::F32, s.t, s.n, 3);
  const auto on_threads = [&](int count) {
    const testing::Threads threads(count);
    Arena arena;
    std::pair<OwnedTensor, OwnedTensor> result{OwnedTensor(DType::F32, {s.t, s.n}),
                                               OwnedTensor(DType::F32, {s.n, s.k})};
    spmm_fprop(x.m, w, result.first, arena);
    spmm_wgrad(x.m, dy, result.second, arena);
    return result;
  };
  const auto one = on_threads(1);
  for (const int count : {2, 3, 4}) {
    const auto many = on_threads(count);
    EXPECT_TRUE(testing::same_bits(one.first, many.first)) << count << " threads";
    EXPECT_TRUE(testing::same_bits(one.second, many.second)) << count << " threads";
  }
}

TEST(Spmm, AMatrixWithoutEntriesChangesNothing) {
  const Sparse x = random_sparse(9, 20, 0, 1);
  const OwnedTensor w = random_matrix(DType::F32, 20, 30, 2);
  const OwnedTensor y = random_matrix(DType::F32, 9, 30, 3);
  const OwnedTensor dw = random_matrix(DType::F32, 30, 20, 4);
  Arena arena;
  spmm_fprop(x.m, w, y, arena);
  spmm_wgrad(x.m, y, dw, arena);
  const OwnedTensor y_before = random_matrix(DType::F32, 9, 30, 3);
  const OwnedTensor dw_before = random_matrix(DType::F32, 30, 20, 4);
  EXPECT_TRUE(testing::same_bits(y, y_before));
  EXPECT_TRUE(testing::same_bits(dw, dw_before));
}

TEST(Spmm, MismatchedShapesThrow) {
  const Sparse x = random_sparse(9, 20, 0.1, 1);
  const OwnedTensor w(DType::F32, {21, 30});
  const OwnedTensor y(DType::F32, {9, 30});
  const OwnedTensor dw(DType::F32, {30, 21});
  Arena arena;
  EXPECT_THROW(spmm_fprop(x.m, w, y, arena), InternalError);
  EXPECT_THROW(spmm_wgrad(x.m, y, dw, arena), InternalError);
  EXPECT_THROW(spmm_fprop(CsrMatrix{}, w, y, arena), InternalError);
}

TEST(Transpose, MovesEveryElementForEveryPairOfTypes) {
  const std::int64_t shapes[][2] = {{1, 1}, {1, 70}, {70, 1}, {16, 16}, {64, 64}, {65, 130}, {257, 63}, {300, 200}};
  for (const auto& shape : shapes) {
    for (const DType from_type : kDTypes) {
      for (const DType to_type : kDTypes) {
        SCOPED_TRACE(fmt::format("{}x{} {} {}", shape[0], shape[1], dtype_name(from_type), dtype_name(to_type)));
        const OwnedTensor from = random_matrix(from_type, shape[0], shape[1], 1);
        const OwnedTensor to(to_type, {shape[1], shape[0]});
        transpose(from, to);
        for (std::int64_t r = 0; r < shape[0]; ++r) {
          for (std::int64_t c = 0; c < shape[1]; ++c) {
            const float x = at(from, r, c);
            ASSERT_EQ(at(to, c, r), to_type == DType::BF16 ? bf16_round(x) : x) << r << ", " << c;
          }
        }
      }
    }
  }
}

TEST(Transpose, ShapesMustBeTransposesOfEachOther) {
  const OwnedTensor from(DType::F32, {3, 4});
  const OwnedTensor to(DType::F32, {3, 4});
  EXPECT_THROW(transpose(from, to), InternalError);
}

}  // namespace
}  // namespace nibble
