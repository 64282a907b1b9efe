// The ordered sum over the ranks that the program was started with, on their device.
#include <gtest/gtest.h>

#include "tests/dist/micro_batches.h"
#include "tests/dist/ranks/ranks.h"

namespace nibble {
namespace {

using testing_support::ranks;
using testing_support::sum_of_positions;
using testing_support::summed;

TEST(OrderedSumOfRanks, IsTheSumByDefinition) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const std::int64_t count : {4, 5, 8, 12}) {
      const std::int64_t numel = 12 * 101;  // divides by 1, 2, 3 and 4 ranks
      OrderedSum sum(ranks(), count, numel, dtype);
      for (std::uint32_t step = 1; step <= 2; ++step) {
        const std::vector<float> expected = sum_of_positions(0, count, numel, dtype, step);
        EXPECT_EQ(summed(ranks(), sum, count, numel, dtype, step),
                  std::vector<double>(expected.begin(), expected.end()))
            << count << " micro-batches of " << dtype_name(dtype) << ", rank " << ranks().rank() << " of "
            << ranks().size();
      }
    }
  }
}

TEST(OrderedSumOfRanks, GathersFiguresInOrder) {
  constexpr std::int64_t kCount = 11;
  const Positions mine = positions_of(ranks().rank(), ranks().size(), kCount);
  std::vector<double> figures;
  for (std::int64_t p = mine.begin; p < mine.end; ++p) figures.push_back(1.0 / static_cast<double>(p + 3));
  const std::vector<double> all = gather_positions(ranks(), figures, kCount);
  ASSERT_EQ(all.size(), static_cast<std::size_t>(kCount));
  for (std::int64_t p = 0; p < kCount; ++p)
    EXPECT_EQ(all[static_cast<std::size_t>(p)], 1.0 / static_cast<double>(p + 3));
}

}  // namespace
}  // namespace nibble
