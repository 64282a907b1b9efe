#include "nibble/dist/launch.h"

#include <gtest/gtest.h>

#include <map>

namespace nibble {
namespace {

using Variables = std::map<std::string, std::string>;

Launch launch(Variables variables, Device device = Device::Cpu) {
  return read_launch(
      [variables](const char* name) {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
      },
      device);
}

void expect_ranks(const Launch& l, Launch::By by, const Ranks& ranks) {
  EXPECT_EQ(l.by, by);
  EXPECT_EQ(l.ranks.rank, ranks.rank);
  EXPECT_EQ(l.ranks.size, ranks.size);
  EXPECT_EQ(l.ranks.local_rank, ranks.local_rank);
  EXPECT_EQ(l.ranks.local_size, ranks.local_size);
}

const Variables kTorchrun{{"RANK", "5"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "4"},
                          {"MASTER_ADDR", "node0"},
                          {"MASTER_PORT", "29500"}};

TEST(Launch, IsAloneWithoutVariables) { expect_ranks(launch({}), Launch::By::Alone, {0, 1, 0, 1}); }

TEST(Launch, ReadsMpirun) {
  expect_ranks(launch({{"OMPI_COMM_WORLD_RANK", "3"},
                       {"OMPI_COMM_WORLD_SIZE", "4"},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}}),
               Launch::By::Mpirun, {3, 4, 1, 2});
}

TEST(Launch, ReadsSrunButNotTheBatchScriptAroundIt) {
  expect_ranks(launch({{"SLURM_PROCID", "2"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_LOCALID", "0"}}), Launch::By::Srun,
               {2, 4, 0, 1});
  expect_ranks(launch({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "0"}}), Launch::By::Alone,
               {0, 1, 0, 1});
}

TEST(Launch, ReadsOtherProcessManagers) {
  expect_ranks(launch({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}), Launch::By::Pmi, {1, 2, 0, 1});
}

TEST(Launch, ReadsTorchrun) {
  const Launch l = launch(kTorchrun, Device::Cuda);
  expect_ranks(l, Launch::By::Rendezvous, {5, 8, 1, 4});
  EXPECT_EQ(l.address, "node0:29500");
}

TEST(Launch, LeavesTorchrunsAgentItsPort) {
  Variables v = kTorchrun;
  v["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  EXPECT_EQ(launch(v, Device::Cuda).address, "node0:29501");
}

TEST(Launch, WritesAddressesOfVersionSixInBrackets) {
  Variables v = kTorchrun;
  v["MASTER_ADDR"] = "fe80::1";
  EXPECT_EQ(launch(v, Device::Cuda).address, "[fe80::1]:29500");
}

TEST(Launch, MeetsWhereASlurmScriptSaysOnGpusAndThroughMpiOnCpus) {
  Variables v = kTorchrun;
  v["SLURM_PROCID"] = "5";
  v["SLURM_STEP_NUM_TASKS"] = "8";
  EXPECT_EQ(launch(v, Device::Cuda).by, Launch::By::Rendezvous);
  EXPECT_EQ(launch(v, Device::Cpu).by, Launch::By::Srun);
}

TEST(Launch, RefusesWhatIsNoRank) {
  EXPECT_THROW(launch({{"OMPI_COMM_WORLD_RANK", "4"}, {"OMPI_COMM_WORLD_SIZE", "4"}}), UserError);
  EXPECT_THROW(launch({{"RANK", "one"}, {"WORLD_SIZE", "4"}}), UserError);
  EXPECT_THROW(launch({{"PMI_RANK", "-1"}, {"PMI_SIZE", "4"}}), UserError);
}

TEST(Launch, TimeoutIsSecondsAboveZero) {
  const auto timeout = [](const char* text) { return dist_timeout([=](const char*) { return text; }); };
  EXPECT_EQ(timeout(nullptr), 600);
  EXPECT_EQ(timeout("1.5"), 1.5);
  for (const char* wrong : {"0", "-3", "soon", "5s", "inf", "nan"}) EXPECT_THROW(timeout(wrong), UserError) << wrong;
}

// Without a launcher's variables; a job of several ranks that cannot be joined is refused.
class World : public ::testing::Test {
 protected:
  void set(const char* name, const char* value) {
    setenv(name, value, 1);
    names_.emplace_back(name);
  }
  void TearDown() override {
    for (const std::string& name : names_) unsetenv(name.c_str());
  }

 private:
  std::vector<std::string> names_;
};

TEST_F(World, OfOneProcessIsOneRank) {
  const auto w = world(Device::Cpu);
  EXPECT_EQ(w->size(), 1);
  EXPECT_EQ(w->rank(), 0);
  EXPECT_EQ(w->name(), "one process");
}

TEST_F(World, OfOneTorchrunRankIsOneProcess) {
  set("RANK", "0");
  set("WORLD_SIZE", "1");
  EXPECT_EQ(world(Device::Cpu)->size(), 1);
}

// Built without MPI because it cannot join, with MPI because that knows one process.
TEST_F(World, RefusesRanksThatCannotBeJoined) {
  set("PMI_RANK", "0");
  set("PMI_SIZE", "3");
  EXPECT_THROW(world(Device::Cpu), UserError);
}

TEST_F(World, RefusesTorchrunOnCpus) {
  set("RANK", "0");
  set("WORLD_SIZE", "2");
  EXPECT_THROW(world(Device::Cpu), UserError);
}

TEST_F(World, RefusesRanksOnGpusWithoutAMeetingPoint) {
  set("RANK", "0");
  set("WORLD_SIZE", "2");
  EXPECT_THROW(world(Device::Cuda), UserError);
}

}  // namespace
}  // namespace nibble
