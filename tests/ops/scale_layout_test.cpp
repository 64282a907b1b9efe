// The 128 x 4 tiles of block scales, byte by byte.
#include "nibble/ops/scale_layout.h"

#include <gtest/gtest.h>

#include <vector>

#include "nibble/ops/native.h"

namespace nibble {
namespace {

TEST(ScaleLayout, GoldenOffsets) {
  // Four tiles across: 13 to 16 columns of scales.
  struct Golden {
    std::int64_t row, col, offset;
  };
  constexpr Golden kGolden[] = {{0, 0, 0},     {1, 0, 16},  {0, 1, 1},      {32, 0, 4},    {31, 3, 499},
                                {127, 3, 511}, {0, 4, 512}, {128, 0, 2048}, {200, 9, 3209}};
  for (const Golden& g : kGolden) {
    EXPECT_EQ(scale_offset(g.row, g.col, 4), g.offset) << g.row << ", " << g.col;
    EXPECT_EQ(scale_position(g.offset, 4).row, g.row) << g.offset;
    EXPECT_EQ(scale_position(g.offset, 4).col, g.col) << g.offset;
  }
}

TEST(ScaleLayout, WithinATileItIsTheFormulaOfTheManual) {
  for (int outer = 0; outer < 128; ++outer) {
    for (int inner = 0; inner < 4; ++inner) {
      EXPECT_EQ(scale_offset(outer, inner, 1), outer % 32 * 16 + outer / 32 * 4 + inner);
      EXPECT_EQ(scale_word_in_tile(outer) + inner, scale_offset(outer, inner, 1));
    }
  }
}

TEST(ScaleLayout, PositionsAndOffsetsArePairedOneToOneOverThePaddedMatrix) {
  for (const std::int64_t rows : {1, 127, 128, 129, 384}) {
    for (const std::int64_t cols : {1, 4, 5, 22}) {
      const std::int64_t across = scale_tiles_across(cols);
      const std::int64_t bytes = scale_layout_bytes(rows, cols);
      ASSERT_EQ(bytes, (rows + 127) / 128 * 128 * ((cols + 3) / 4 * 4));
      std::vector<bool> met(static_cast<std::size_t>(bytes));
      for (std::int64_t r = 0; r < bytes / (4 * across); ++r) {
        for (std::int64_t c = 0; c < 4 * across; ++c) {
          const std::int64_t at = scale_offset(r, c, across);
          ASSERT_TRUE(at >= 0 && at < bytes && !met[static_cast<std::size_t>(at)]) << r << ", " << c;
          met[static_cast<std::size_t>(at)] = true;
          ASSERT_EQ(scale_position(at, across).row, r);
          ASSERT_EQ(scale_position(at, across).col, c);
        }
      }
    }
  }
}

TEST(ScaleLayout, RowMajorScalesGoToTheirOffsetsAndZerosBeyondThem) {
  for (const std::int64_t rows : {1, 40, 128, 200}) {
    for (const std::int64_t cols : {2, 4, 7, 20}) {
      std::vector<std::uint8_t> stored(static_cast<std::size_t>(rows * cols));
      for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<std::uint8_t>(1 + i % 255);
      StoredScales scales;
      scales.bytes = stored.data();
      scales.rows = rows;
      scales.cols = cols;
      scales.row_stride = cols;
      std::vector<std::uint8_t> tiles(static_cast<std::size_t>(scale_layout_bytes(rows, cols)), 0xAA);
      tile_scales(scales, tiles.data());
      for (std::size_t at = 0; at < tiles.size(); ++at) {
        const ScalePosition p = scale_position(static_cast<std::int64_t>(at), scale_tiles_across(cols));
        const bool inside = p.row < rows && p.col < cols;
        ASSERT_EQ(tiles[at], inside ? stored[static_cast<std::size_t>(p.row * cols + p.col)] : 0)
            << p.row << ", " << p.col;
      }
    }
  }
}

TEST(ScaleLayout, AStoredScaleServesItsWholeBlockEitherWayRound) {
  // Stored [3, 5], one scale for 16 rows and 2 columns; and the same scales of a matrix stored transposed, [5, 3].
  std::uint8_t stored[15];
  std::uint8_t turned[15];
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 5; ++c) stored[5 * r + c] = turned[3 * c + r] = static_cast<std::uint8_t>(1 + 5 * r + c);
  }
  StoredScales scales;
  scales.bytes = stored;
  scales.rows = 40;
  scales.cols = 9;
  scales.rows_per_scale = 16;
  scales.cols_per_scale = 2;
  scales.row_stride = 5;
  StoredScales other = scales;
  other.bytes = turned;
  other.row_stride = 1;
  other.col_stride = 3;
  std::vector<std::uint8_t> tiles(static_cast<std::size_t>(scale_layout_bytes(40, 9)));
  std::vector<std::uint8_t> same(tiles.size());
  tile_scales(scales, tiles.data());
  tile_scales(other, same.data());
  EXPECT_EQ(tiles, same);
  for (std::int64_t r = 0; r < 40; ++r) {
    for (std::int64_t c = 0; c < 9; ++c) {
      EXPECT_EQ(tiles[static_cast<std::size_t>(scale_offset(r, c, 3))], stored[5 * (r / 16) + c / 2]) << r << ", " << c;
    }
  }
}

}  // namespace
}  // namespace nibble
