#include "nibble/dist/row_pieces.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(RowPieces, CoverTheMatrixOnceWithPaddingBehindIt) {
  for (int ranks = 1; ranks <= 16; ++ranks) {
    for (const std::int64_t rows : {1, 15, 16, 17, 64, 192, 768, 2048, 5632, 11264, 32000, 128256}) {
      const RowPieces pieces(rows, ranks);
      std::int64_t at = 0;
      for (int r = 0; r < ranks; ++r) {
        const RowRange mine = pieces.of(r);
        EXPECT_EQ(mine.begin, at);
        EXPECT_LE(mine.size(), pieces.piece());
        if (mine.end < rows) {
          EXPECT_EQ(mine.end % RowPieces::kBorder, 0);
          EXPECT_EQ(mine.size(), pieces.piece());
        }
        at = mine.end;
      }
      EXPECT_EQ(at, rows);
      EXPECT_GE(pieces.padded(), rows);
    }
  }
}

TEST(RowPieces, OneRankHasTheMatrixAsItIs) {
  EXPECT_EQ(RowPieces(33, 1).padded(), 33);
  EXPECT_EQ(RowPieces(33, 1).of(0), (RowRange{0, 33}));
}

TEST(RowPieces, BordersAreWideWhereThatWastesLittle) {
  EXPECT_EQ(RowPieces(2048, 8).piece(), 256);
  EXPECT_EQ(RowPieces(11264, 8).piece(), 1408);
  EXPECT_EQ(RowPieces(32000, 8).piece(), 4032);  // 0.8 % more than 4000; 4096 would be 2.4 %
  EXPECT_EQ(RowPieces(768, 4).piece(), 192);     // 256 would be a third more
  EXPECT_EQ(RowPieces(100, 3).piece(), 48);
}

}  // namespace
}  // namespace nibble
