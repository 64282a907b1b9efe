#include "nibble/ops/cpu/tile_matmul.h"

#include <gtest/gtest.h>

// As in tile_matmul.cpp.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include <hwy/targets.h>

#include <cmath>
#include <vector>

#include "tests/ops/op_testing.h"

namespace nibble {
namespace {

struct Matrix {
  Matrix(std::int64_t rows, std::int64_t columns, std::uint32_t seed)
      : memory(testing::random_tensor(DType::F32, {rows, tile_stride(columns)}, seed)),
        tile{memory.view().data<float>(), tile_stride(columns)} {}
  float& at(std::int64_t r, std::int64_t c) const { return tile.data[r * tile.stride + c]; }

  OwnedTensor memory;
  Tile tile;
};

// Square tiles have their squares below the diagonal set to zero: what `upper` promises.
void make_upper(const Matrix& m, std::int64_t n) {
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c < r / kTileRows * kTileRows; ++c) m.at(r, c) = 0.0f;
  }
}

struct Case {
  std::int64_t m, n, k;
  bool upper;
};
const Case kCases[] = {{8, 16, 1, false},   {16, 16, 6, false},  {64, 64, 128, false},
                       {24, 48, 64, false}, {40, 16, 80, false}, {8, 96, 3, false},
                       {16, 16, 16, true},  {64, 64, 64, true},  {48, 48, 48, true}};

// The tile products must be right on every instruction set that this machine has.
class TileMatmul : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

TEST_P(TileMatmul, ProductOfATileAndATile) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(fmt::format("m {} n {} k {} upper {}", c.m, c.n, c.k, c.upper));
    const Matrix a(c.m, c.k, 1), b(c.k, c.n, 2), out(c.m, c.n, 3);
    tile_matmul(a.tile, b.tile, out.tile, c.m, c.n, c.k, c.upper);
    for (std::int64_t i = 0; i < c.m; ++i) {
      for (std::int64_t j = c.upper ? i / kTileRows * kTileRows : 0; j < c.n; ++j) {
        double want = 0;
        for (std::int64_t k = 0; k < c.k; ++k) want += static_cast<double>(a.at(i, k)) * b.at(k, j);
        ASSERT_NEAR(out.at(i, j), want, 1e-5) << i << ", " << j;
      }
    }
  }
}

TEST_P(TileMatmul, ProductAddedToATile) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(fmt::format("m {} n {} k {} upper {}", c.m, c.n, c.k, c.upper));
    const Matrix u(c.m, c.k, 1), b(c.k, c.n, 2), out(c.m, c.n, 3), before(c.m, c.n, 3);
    if (c.upper) make_upper(u, c.m);
    tile_matmul_add(u.tile, b.tile, out.tile, c.m, c.n, c.k, c.upper);
    for (std::int64_t i = 0; i < c.m; ++i) {
      for (std::int64_t j = 0; j < c.n; ++j) {
        double want = before.at(i, j);
        for (std::int64_t k = 0; k < c.k; ++k) want += static_cast<double>(u.at(i, k)) * b.at(k, j);
        ASSERT_NEAR(out.at(i, j), want, 1e-5) << i << ", " << j;
      }
    }
  }
}

TEST_P(TileMatmul, ProductOfATransposedTileAddedToATile) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(fmt::format("m {} n {} k {} upper {}", c.m, c.n, c.k, c.upper));
    const Matrix u(c.k, c.m, 1), b(c.k, c.n, 2), out(c.m, c.n, 3), before(c.m, c.n, 3);
    if (c.upper) make_upper(u, c.m);
    tile_matmul_add_transposed(u.tile, b.tile, out.tile, c.m, c.n, c.k, c.upper);
    for (std::int64_t i = 0; i < c.m; ++i) {
      for (std::int64_t j = 0; j < c.n; ++j) {
        double want = before.at(i, j);
        for (std::int64_t k = 0; k < c.k; ++k) want += static_cast<double>(u.at(k, i)) * b.at(k, j);
        ASSERT_NEAR(out.at(i, j), want, 1e-5) << i << ", " << j;
      }
    }
  }
}

TEST_P(TileMatmul, SquaresThatUpperSkipsAreNeverRead) {
  constexpr std::int64_t kSize = 48;
  const Matrix u(kSize, kSize, 1), b(kSize, kSize, 2), out(kSize, kSize, 3);
  for (std::int64_t r = 0; r < kSize; ++r) {
    for (std::int64_t c = 0; c < r / kTileRows * kTileRows; ++c) u.at(r, c) = std::nanf("");
  }
  tile_matmul_add(u.tile, b.tile, out.tile, kSize, kSize, kSize, true);
  tile_matmul_add_transposed(u.tile, b.tile, out.tile, kSize, kSize, kSize, true);
  for (std::int64_t i = 0; i < kSize; ++i) {
    for (std::int64_t j = 0; j < kSize; ++j) ASSERT_TRUE(std::isfinite(out.at(i, j))) << i << ", " << j;
  }
}

TEST_P(TileMatmul, PaddingOfTheResultIsLeftAlone) {
  constexpr std::int64_t kRows = 16;
  constexpr std::int64_t kColumns = 32;  // tile_stride gives it a third line
  const Matrix a(kRows, 16, 1), b(16, kColumns, 2), out(kRows, kColumns, 3), before(kRows, kColumns, 3);
  tile_matmul(a.tile, b.tile, out.tile, kRows, kColumns, 16, false);
  for (std::int64_t i = 0; i < kRows; ++i) {
    for (std::int64_t j = kColumns; j < out.tile.stride; ++j) ASSERT_EQ(out.at(i, j), before.at(i, j));
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, TileMatmul, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return std::string(hwy::TargetName(info.param)); });

TEST(TileStride, IsAnOddNumberOfCacheLinesThatHoldsTheColumns) {
  for (std::int64_t columns = 1; columns <= 256; ++columns) {
    const std::int64_t stride = tile_stride(columns);
    EXPECT_GE(stride, columns);
    EXPECT_LT(stride, columns + 32);
    EXPECT_EQ(stride % 32, 16);
  }
}

}  // namespace
}  // namespace nibble
