#include "nibble/dist/hosts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "tests/thread_ranks.h"

namespace nibble {
namespace {

TEST(Hosts, AreThoseOfAllRanksOnEveryRank) {
  std::array<char, 64> name{};
  ASSERT_EQ(gethostname(name.data(), name.size() - 1), 0);
  for (const int size : {1, 3}) {
    testing_support::on_thread_ranks(size, [&](Communicator& rank) {
      EXPECT_EQ(hosts_of(rank), std::vector<std::string>(static_cast<std::size_t>(size), name.data()));
    });
  }
  EXPECT_EQ(hosts_of(*make_single_process(Device::Cpu)), std::vector<std::string>{name.data()});
}

}  // namespace
}  // namespace nibble
