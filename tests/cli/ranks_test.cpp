// `nibble train` on several processes: the same bits, whatever happens to them.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "nibble/io/run_log.h"
#include "tests/cli/program.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// Text of a file that may vanish at any moment, as those of processes do.
std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class RanksOfTheProgram : public testing::Test {
 protected:
  void SetUp() override {
#ifndef NIBBLE_MPIRUN
    GTEST_SKIP() << "built without MPI";
#endif
    if (std::system("command -v mpirun > /dev/null") != 0) GTEST_SKIP() << "no mpirun here";
    std::ofstream(folder_.path() / "c.toml") << small_config_text(write_small_data(folder_.path()), 400);
  }
  std::string out(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string command(const std::string& name, int steps, const std::string& options = "") const {
    return fmt::format(
        "train --config {}/c.toml --set train.micro_batch=1 --set train.steps={} --deterministic --out {} {}",
        folder_.path().string(), steps, out(name), options);
  }
  /// A rank of the run, or 0.
  pid_t rank_of(const std::string& name, int rank) const {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      if (contents(entry.path() / "cmdline").find(out(name)) == std::string::npos) continue;
      const std::string variable = fmt::format("OMPI_COMM_WORLD_RANK={}", rank);
      if (contents(entry.path() / "environ").find(variable + '\0') != std::string::npos) {
        return static_cast<pid_t>(std::stol(entry.path().filename().string()));
      }
    }
    return 0;
  }
  /// Waits until the run has logged so many steps; false after a minute without.
  bool wait_for_step(const std::string& name, int step) const {
    for (int i = 0; i < 1200; ++i) {
      const std::string log = contents(out(name) + "/metrics.jsonl");
      if (std::count(log.begin(), log.end(), '\n') >= step) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }
  TemporaryDirectory folder_;
};

const std::string kQuiet = "NIBBLE_DIST_TIMEOUT=60 OMP_NUM_THREADS=1";

TEST_F(RanksOfTheProgram, GiveTheBitsOfOneProcess) {
  ASSERT_EQ(run(command("1", 12)).code, 0);
  for (const int ranks : {2, 3}) {
    const Output several = run(command(std::to_string(ranks), 12, fmt::format("--ranks {}", ranks)), kQuiet);
    ASSERT_EQ(several.code, 0) << several.text;
    expect_same_run(out("1"), out(std::to_string(ranks)));
  }
}

TEST_F(RanksOfTheProgram, ARankThatIsKilledCostsTheStepsSinceTheLastCheckpointAndNoBit) {
  constexpr int kSteps = 400;
  const std::string beside = " --set log.checkpoint_async=true";
  ASSERT_EQ(run(command("whole", kSteps, beside)).code, 0);
  Output outcome;
  std::thread job([&] { outcome = run(command("killed", kSteps, "--ranks 2 --restarts 5" + beside), kQuiet); });
  int killed = 0;
  for (const auto& [step, rank] : {std::pair{20, 1}, {120, 0}}) {
    ASSERT_TRUE(wait_for_step("killed", step));
    const pid_t victim = rank_of("killed", rank);
    if (victim > 0 && kill(victim, SIGKILL) == 0) ++killed;
  }
  job.join();
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_GT(killed, 0);
  EXPECT_NE(outcome.text.find("restart 1 of 5"), std::string::npos) << outcome.text;
  expect_same_run(out("whole"), out("killed"));
  EXPECT_EQ(outcome.text.find("trying the checkpoint before it"), std::string::npos) << outcome.text;
}

TEST_F(RanksOfTheProgram, ASignalToTheLauncherSavesTheRun) {
  const std::string arguments = command("stopped", 100000, "--ranks 2 --restarts 5");
  const std::string line = "cd " NIBBLE_SOURCE_DIR " && " + kQuiet + " exec " NIBBLE_BINARY_DIR "/nibble " + arguments;
  const pid_t launcher = fork();
  ASSERT_GE(launcher, 0);
  if (launcher == 0) {
    execl("/bin/sh", "sh", "-c", (line + " > /dev/null 2>&1").c_str(), nullptr);
    _exit(127);
  }
  ASSERT_TRUE(wait_for_step("stopped", 5));
  kill(launcher, SIGTERM);
  int status = 0;
  waitpid(launcher, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  const RunLog log = load_run(out("stopped"));
  ASSERT_FALSE(log.steps.empty());
  EXPECT_EQ(load_state(newest_checkpoint(out("stopped")).value()).step, log.steps.back().step);
}

#ifdef NIBBLE_MPIRUN
TEST_F(RanksOfTheProgram, OnTwoHostsGiveTheBitsOfOneProcess) {
  std::ofstream(folder_.path() / "hosts.toml")
      << small_config_text(folder_.path() / "data", 12);  // micro_batch 2 of 4: one a host
  const int status = std::system(fmt::format("cd {} && tests/dist/two_hosts.sh {}/nibble {} {}/hosts.toml {} > {} 2>&1",
                                             NIBBLE_SOURCE_DIR, NIBBLE_BINARY_DIR, NIBBLE_MPIRUN,
                                             folder_.path().string(), folder_.path().string(), out("hosts.log"))
                                     .c_str());
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << contents(out("hosts.log"));
  EXPECT_EQ(WEXITSTATUS(status), 0) << contents(out("hosts.log"));
}
#endif

int times(const Output& out, const std::string& sentence) {
  int count = 0;
  for (auto at = out.text.find(sentence); at != std::string::npos; at = out.text.find(sentence, at + 1)) ++count;
  return count;
}

/// A command line of the program, as often as it is to be a rank.
struct Part {
  int ranks;
  std::string arguments;
};

/// One job of all parts by mpirun, which this process cannot ask for a job of different ranks.
Output run_parts(const std::vector<Part>& parts) {
  std::string line = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 " + kQuiet +
                     " timeout -k 5 60 mpirun --oversubscribe --bind-to none";
  for (std::size_t i = 0; i < parts.size(); ++i) {
    line +=
        fmt::format("{} -n {} {}/nibble {}", i == 0 ? "" : " :", parts[i].ranks, NIBBLE_BINARY_DIR, parts[i].arguments);
  }
  return run_line(line);
}

TEST_F(RanksOfTheProgram, AMistakeThatAllMeetBeforeTheyJoinIsSaidOnce) {
  const Output bad = run_parts({{3, "train --config /nowhere.toml --out " + out("x")}});
  EXPECT_EQ(bad.code, 2) << bad.text;
  EXPECT_EQ(times(bad, "/nowhere.toml"), 1) << bad.text;
  EXPECT_EQ(times(bad, "nibble: rank"), 0) << bad.text;
  const Output option = run_parts({{2, "train --cofnig x"}});
  EXPECT_EQ(option.code, 2) << option.text;
  EXPECT_EQ(times(option, "see 'nibble train --help'"), 1) << option.text;
}

TEST_F(RanksOfTheProgram, AMistakeThatAllMeetAfterTheyHaveJoinedIsSaidOnce) {
  const Output many = run(command("many", 2, "--ranks 5"), kQuiet);  // of four micro-batches
  EXPECT_EQ(many.code, 2);
  EXPECT_EQ(times(many, "nibble: a step of 4 micro-batches cannot be shared by 5 ranks"), 1) << many.text;
  EXPECT_EQ(times(many, "a step of 4 micro-batches"), 1) << many.text;
}

TEST_F(RanksOfTheProgram, AMistakeOfOneRankIsSaidByItWithItsNumber) {
  const std::string sound = command("x", 2);
  const Output one = run_parts({{1, sound}, {1, "train --config /nowhere.toml --out " + out("x")}, {1, sound}});
  EXPECT_EQ(one.code, 2) << one.text;
  EXPECT_EQ(times(one, "nibble: rank 1: "), 1) << one.text;
  EXPECT_EQ(times(one, "/nowhere.toml"), 1) << one.text;
}

TEST_F(RanksOfTheProgram, AMistakeOfSomeRanksIsSaidByTheLowestForThem) {
  const Output two = run_parts({{1, command("x", 2)}, {2, "train --config /nowhere.toml --out " + out("x")}});
  EXPECT_EQ(two.code, 2) << two.text;
  EXPECT_EQ(times(two, "nibble: ranks 1 and 2: "), 1) << two.text;
  EXPECT_EQ(times(two, "/nowhere.toml"), 1) << two.text;
}

TEST_F(RanksOfTheProgram, AnAlarmStopsAllOfThemWithItsExitCode) {
  const Output out = run(
      command("alarm", 50, "--ranks 2 --recipe fp4-direct --set alarms.underflow=1e-6 --set alarms.stop=true"), kQuiet);
  EXPECT_EQ(out.code, 3) << out.text;
  EXPECT_EQ(times(out, "nibble: alarm at step"), 1) << out.text;
}

TEST(RanksOfAnotherStarter, AMistakeIsSaidOnceInTheOrderOfRanks) {
  // As torchrun does, the script ends the other ranks when rank 0 is gone.
  const Output bad = run_line("tests/dist/gpus.sh 3 " NIBBLE_BINARY_DIR "/nibble train --config /nowhere.toml --out x");
  EXPECT_EQ(bad.code, 2) << bad.text;
  EXPECT_EQ(times(bad, "/nowhere.toml"), 1) << bad.text;
  EXPECT_EQ(times(bad, "nibble: rank 0: "), 1) << bad.text;
  const Output last = run("train --config /nowhere.toml --out x", "RANK=1 WORLD_SIZE=2");  // nobody else meets it
  EXPECT_EQ(last.code, 2) << last.text;
  EXPECT_EQ(times(last, "nibble: rank 1: "), 1) << last.text;
}

TEST_F(RanksOfTheProgram, MistakesAreRefused) {
  expect_mistake(command("x", 2, "--ranks 0"), "at least one rank");
  const std::string as_rank = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2";
  const Output inner = run(command("x", 2, "--ranks 2"), as_rank);
  EXPECT_EQ(inner.code, 2);
  EXPECT_NE(inner.text.find("this process is one of several ranks already"), std::string::npos) << inner.text;
  const Output without_pmix = run(command("x", 2, ""), "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0");
  EXPECT_EQ(without_pmix.code, 2);
  EXPECT_NE(without_pmix.text.find("start them with srun --mpi=pmix"), std::string::npos) << without_pmix.text;
  const Output compare = run("compare --config configs/demo.toml --recipes bf16 --out " + out("x"), as_rank);
  EXPECT_EQ(compare.code, 2);
  EXPECT_NE(compare.text.find("'nibble compare' is one process"), std::string::npos) << compare.text;
}

}  // namespace
}  // namespace nibble
