#include "nibble/train/step_verdict.h"

#include <gtest/gtest.h>

#include "tests/thread_ranks.h"

namespace nibble {
namespace {

TEST(StepVerdict, IsTheSameOnAllRanksButForWhatIsARanksOwn) {
  testing_support::on_thread_ranks(3, [](Communicator& ranks) {
    StepVerdict mine;
    mine.stop = ranks.rank() == 2;
    mine.alarm = ranks.rank() == 1;  // rank 0 alone watches
    if (ranks.rank() == 0) mine.gradient_to_noise = 1.5;
    mine.own_seconds = 0.25 * (ranks.rank() + 1);
    const StepVerdict all = agree(ranks, mine);
    EXPECT_TRUE(all.stop);
    EXPECT_FALSE(all.alarm);
    EXPECT_EQ(all.gradient_to_noise, 1.5);
    EXPECT_EQ(all.own_seconds, mine.own_seconds);
    EXPECT_EQ(all.rank_seconds, (std::vector<double>{0.25, 0.5, 0.75}));
  });
}

TEST(StepVerdict, OfOneRankIsItsOwn) {
  StepVerdict mine;
  mine.own_seconds = 2;
  const StepVerdict all = agree(*make_single_process(Device::Cpu), mine);
  EXPECT_FALSE(all.stop);
  EXPECT_EQ(all.own_seconds, 2);
  EXPECT_TRUE(all.rank_seconds.empty());
}

}  // namespace
}  // namespace nibble
