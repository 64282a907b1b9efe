// A rank that fails, dies or hangs ends the job on all ranks, soon, and is named.
#include <gtest/gtest.h>

#ifdef NIBBLE_MPIRUN

#include <fmt/core.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace nibble {
namespace {

struct Outcome {
  int code = 0;
  double seconds = 0;
  std::string output;
};

/// mpirun of `ranks` ranks, one of which is faulty.
Outcome run(int ranks, const std::string& how, int faulty, int timeout = 2) {
  const std::string command = fmt::format(
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 NIBBLE_DIST_TIMEOUT={} "
      "timeout -k 5 60 {} --oversubscribe --bind-to none -n {} {} {} {} 2>&1 < /dev/null",
      timeout, NIBBLE_MPIRUN, ranks, NIBBLE_FAULTY, how, faulty);
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {.code = -1, .seconds = 0, .output = "popen failed"};
  char buffer[4096];
  while (const std::size_t n = fread(buffer, 1, sizeof(buffer), pipe)) outcome.output.append(buffer, n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

/// Ranks that came to their end; mpirun may add words of its own.
int times_finished(const Outcome& outcome) {
  int count = 0;
  for (auto at = outcome.output.find("finished"); at != std::string::npos;
       at = outcome.output.find("finished", at + 1)) {
    ++count;
  }
  return count;
}

/// The job has ended by itself, early, unfinished, and says `sentence`.
void expect_ended(const Outcome& outcome, const std::string& sentence) {
  EXPECT_NE(outcome.code, 0);
  EXPECT_NE(outcome.code, 124) << "the job had to be killed";
  EXPECT_LT(outcome.seconds, 30);
  EXPECT_EQ(outcome.output.find("finished"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find(sentence), std::string::npos) << outcome.output;
}

TEST(Faults, ASoundJobFinishes) {
  const Outcome outcome = run(2, "nothing", 0);
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(times_finished(outcome), 2);
}

TEST(Faults, ASlowRankIsWaitedFor) {
  // For 2 s: the others ask after 1.5, and the rank answers when it is back.
  const Outcome outcome = run(3, "slow", 1, 3);
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_EQ(times_finished(outcome), 3);
}

TEST(Faults, AnErrorOfOneRankEndsTheJobWithItsSentence) {
  const Outcome outcome = run(4, "throw", 2);
  expect_ended(outcome, "nibble: rank 2: the data of rank 2 are gone");
  EXPECT_EQ(outcome.code, 2);
  expect_ended(run(2, "internal", 0), "nibble: rank 0: a contract was broken");
}

TEST(Faults, ARankThatIsKilledIsNamed) { expect_ended(run(4, "kill", 3), "rank 3"); }

TEST(Faults, ARankThatExitsIsNamed) { expect_ended(run(2, "exit", 1), "rank 1"); }

TEST(Faults, ARankThatHangsIsNamed) {
  expect_ended(run(2, "sleep", 1), "nibble: rank 0: rank 1 has not joined all_reduce of 4000 bytes (operation 4)");
  expect_ended(run(4, "sleep", 0), "rank 0 has not joined all_reduce of 4000 bytes (operation 4)");
}

TEST(Faults, ARankWhoseProcessIsStoppedIsNamed) {
  expect_ended(run(3, "stop", 2), "rank 2 has not joined all_reduce of 4000 bytes (operation 4)");
}

TEST(Faults, RanksThatDoNotAgreeAreNamed) {
  expect_ended(run(2, "disagree", 1), "the ranks do not agree: as operation 4 rank ");
  expect_ended(run(2, "end", 1), "the end of the job");
}

}  // namespace
}  // namespace nibble

#else

TEST(Faults, NeedMpi) { GTEST_SKIP() << "built without MPI, or without mpirun"; }

#endif
