#include "nibble/dist/ordered_sum.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tests/dist/micro_batches.h"
#include "tests/thread_ranks.h"

namespace nibble {
namespace {

using testing_support::on_thread_ranks;
using testing_support::sum_of_positions;
using testing_support::summed;
using testing_support::ThreadRank;

TEST(OrderedSum, PositionsCoverTheStepAndDifferByOne) {
  for (int ranks = 1; ranks <= 9; ++ranks) {
    for (std::int64_t count = ranks; count < 40; ++count) {
      std::int64_t at = 0;
      for (int r = 0; r < ranks; ++r) {
        const Positions p = positions_of(r, ranks, count);
        EXPECT_EQ(p.begin, at);
        EXPECT_GE(p.size(), count / ranks);
        EXPECT_LE(p.size(), count / ranks + 1);
        at = p.end;
      }
      EXPECT_EQ(at, count);
    }
  }
}

TEST(OrderedSum, NodesAreTheLargestThatFit) {
  EXPECT_EQ(nodes_of({0, 8}, 8), (std::vector<SumNode>{{3, 0}}));
  EXPECT_EQ(nodes_of({0, 7}, 7), (std::vector<SumNode>{{3, 0}}));  // the whole, cut off at 7
  EXPECT_EQ(nodes_of({4, 7}, 7), (std::vector<SumNode>{{2, 1}}));
  EXPECT_EQ(nodes_of({6, 7}, 7), (std::vector<SumNode>{{1, 3}}));
  EXPECT_EQ(nodes_of({5, 10}, 16), (std::vector<SumNode>{{0, 5}, {1, 3}, {1, 4}}));
  EXPECT_EQ(nodes_of({0, 1}, 1), (std::vector<SumNode>{{0, 0}}));
}

TEST(OrderedSum, EvenSplitsAreOneNodeARank) {
  for (const auto& [ranks, count] : {std::pair{1, 13}, {2, 8}, {4, 8}, {4, 4}, {3, 12}, {3, 3}, {8, 64}, {5, 40}}) {
    for (int r = 0; r < ranks; ++r) {
      EXPECT_EQ(nodes_of(positions_of(r, ranks, count), count).size(), 1u) << r << " of " << ranks << ", " << count;
    }
  }
}

// The property that the deterministic mode stands on.
TEST(OrderedSum, IsTheSameBitsOnAnyNumberOfRanks) {
  EXPECT_TRUE(rc::check("any ranks, any micro-batches", [] {
    const int ranks = *rc::gen::inRange(1, 7);
    const std::int64_t count = *rc::gen::inRange<std::int64_t>(ranks, 20);
    const std::int64_t numel = ranks * *rc::gen::inRange<std::int64_t>(0, 9);
    const DType dtype = *rc::gen::element(DType::F32, DType::BF16);
    const std::vector<float> expected = numel == 0 ? std::vector<float>{} : sum_of_positions(0, count, numel, dtype);
    std::vector<std::vector<double>> got(static_cast<std::size_t>(ranks));
    on_thread_ranks(ranks, [&](ThreadRank& rank) {
      OrderedSum sum(rank, count, numel, dtype);
      got[static_cast<std::size_t>(rank.rank())] = summed(rank, sum, count, numel, dtype);
    });
    for (const auto& whole : got) {
      RC_ASSERT(whole == std::vector<double>(expected.begin(), expected.end()));
    }
  }));
}

TEST(OrderedSum, DiffersFromTheOrderOfOneRankThatJustAddsUp) {
  constexpr std::int64_t kCount = 8, kNumel = 64;
  std::vector<float> in_a_row(kNumel, 0.0f);
  for (std::int64_t p = 0; p < kCount; ++p) {
    const std::vector<double> leaf = testing_support::doubles(testing_support::gradient_of(p, kNumel, DType::F32));
    for (std::size_t i = 0; i < leaf.size(); ++i) in_a_row[i] += static_cast<float>(leaf[i]);
  }
  EXPECT_NE(in_a_row, sum_of_positions(0, kCount, kNumel, DType::F32)) << "the test's gradients show no order";
}

TEST(OrderedSum, ServesStepAfterStepInTheMemoryOfTheFirst) {
  on_thread_ranks(2, [](ThreadRank& rank) {
    OrderedSum sum(rank, 8, 10, DType::F32);
    std::size_t after_first = 0;
    for (std::uint32_t step = 1; step <= 3; ++step) {
      const std::vector<float> expected = sum_of_positions(0, 8, 10, DType::F32, step);
      EXPECT_EQ(summed(rank, sum, 8, 10, DType::F32, step), std::vector<double>(expected.begin(), expected.end()));
      if (step == 1) after_first = sum.bytes();
    }
    EXPECT_EQ(sum.bytes(), after_first);
    // log2(4) gradients and one that arrives.
    EXPECT_EQ(sum.bytes(), (2 + 1) * 10 * sizeof(float));
  });
}

TEST(OrderedSum, HoldsAsManyGradientsAsItSays) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    for (std::int64_t count = ranks; count <= 17; ++count) {
      on_thread_ranks(ranks, [&](ThreadRank& rank) {
        const std::int64_t numel = 4 * ranks;
        OrderedSum sum(rank, count, numel, DType::F32);
        summed(rank, sum, count, numel, DType::F32);
        const OrderedSum::Memory memory = OrderedSum::memory_of(rank.rank(), ranks, count);
        EXPECT_EQ(static_cast<std::int64_t>(sum.bytes()), (memory.held + memory.arriving) * numel * 4)
            << "rank " << rank.rank() << " of " << ranks << ", " << count << " micro-batches";
      });
    }
  }
}

TEST(OrderedSum, MovesWhatAReduceScatterMovesWhereTheSplitIsEven) {
  on_thread_ranks(4, [](ThreadRank& rank) {
    OrderedSum sum(rank, 16, 100, DType::F32);
    summed(rank, sum, 16, 100, DType::F32);
    EXPECT_EQ(rank.moved, 100 * 4 * 3 / 4);
  });
  on_thread_ranks(3, [](ThreadRank& rank) {
    OrderedSum sum(rank, 16, 99, DType::F32);  // 5, 5 and 6: three nodes at most
    summed(rank, sum, 16, 99, DType::F32);
    EXPECT_EQ(rank.moved, 3 * 99 * 4 * 2 / 3);
  });
}

TEST(OrderedSum, FiguresComeInTheOrderOfPositions) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    on_thread_ranks(ranks, [&](ThreadRank& rank) {
      constexpr std::int64_t kCount = 11;
      const Positions mine = positions_of(rank.rank(), ranks, kCount);
      std::vector<double> figures;
      for (std::int64_t p = mine.begin; p < mine.end; ++p) figures.push_back(1.0 / static_cast<double>(p + 3));
      const std::vector<double> all = gather_positions(rank, figures, kCount);
      ASSERT_EQ(all.size(), static_cast<std::size_t>(kCount));
      for (std::int64_t p = 0; p < kCount; ++p) {
        EXPECT_EQ(all[static_cast<std::size_t>(p)], 1.0 / static_cast<double>(p + 3));
      }
    });
  }
}

TEST(OrderedSum, RefusesMoreRanksThanMicroBatches) {
  on_thread_ranks(3, [](ThreadRank& rank) { EXPECT_THROW(OrderedSum(rank, 2, 9, DType::F32), UserError); });
}

TEST(OrderedSum, WantsEveryMicroBatchBeforeTheExchange) {
  const auto alone = make_single_process(Device::Cpu);
  OrderedSum sum(*alone, 3, 4, DType::F32);
  sum.add(testing_support::gradient_of(0, 4, DType::F32));
  EXPECT_THROW(sum.start_exchange(), InternalError);
}

}  // namespace
}  // namespace nibble
