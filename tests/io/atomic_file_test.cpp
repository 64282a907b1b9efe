#include "nibble/io/atomic_file.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

TEST(AtomicFile, LeavesTheDestinationAloneUntilCommit) {
  const TemporaryDirectory dir;
  dir.write("file", "old");
  AtomicFile file(dir / "file");
  file.write("new and longer");
  EXPECT_EQ(read_file(dir / "file"), "old");
  file.commit();
  EXPECT_EQ(read_file(dir / "file"), "new and longer");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"file"});
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TemporaryDirectory dir;
  {
    AtomicFile file(dir / "file");
    file.write(std::string(1 << 20, 'x'));
    EXPECT_EQ(dir.names().size(), 1u);
  }
  EXPECT_TRUE(dir.names().empty());
}

TEST(AtomicFile, KeepsTheOrderOfSmallAndLargePieces) {
  const TemporaryDirectory dir;
  std::string expected;
  AtomicFile file(dir / "file");
  for (std::size_t i = 0; i < 60; ++i) {
    const std::string piece((i * 7919) % (i % 10 == 9 ? 400000 : 5000), static_cast<char>('a' + i % 26));
    file.write(piece);
    expected += piece;
    EXPECT_EQ(file.size(), expected.size());
  }
  file.commit();
  EXPECT_EQ(read_file(dir / "file"), expected);
}

TEST(AtomicFile, ReplacesBytesThatWereWritten) {
  const TemporaryDirectory dir;
  AtomicFile file(dir / "file");
  file.write("0123456789");
  file.write_at(2, std::as_bytes(std::span("abc", 3)));
  file.write("tail");
  file.write_at(12, std::as_bytes(std::span("XY", 2)));
  EXPECT_THROW(file.write_at(13, std::as_bytes(std::span("XY", 2))), InternalError);
  file.commit();
  EXPECT_EQ(read_file(dir / "file"), "01abc56789taXY");
}

TEST(AtomicFile, RefusesToBeUsedAfterCommit) {
  const TemporaryDirectory dir;
  AtomicFile file(dir / "file");
  file.commit();
  EXPECT_THROW(file.write("x"), InternalError);
  EXPECT_THROW(file.commit(), InternalError);
  EXPECT_EQ(read_file(dir / "file"), "");
}

TEST(AtomicFile, TwoWritersOfOneDestinationDoNotMix) {
  const TemporaryDirectory dir;
  AtomicFile a(dir / "file"), b(dir / "file");
  a.write("from a");
  b.write("from b, later");
  a.commit();
  b.commit();
  EXPECT_EQ(read_file(dir / "file"), "from b, later");
}

TEST(AtomicFile, NamesThePathAndTheReasonWhenItFails) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(write_file_atomic(dir / "none/file", "x"), "none/file");
  EXPECT_USER_ERROR(write_file_atomic(dir / "none/file", "x"), "No such file or directory");
  make_directories(dir / "directory/full");
  EXPECT_USER_ERROR(write_file_atomic(dir / "directory", "x"), "Is a directory");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"directory"});
}

TEST(AtomicFile, SaysThatAFileMayNotGrowFurther) {
  const TemporaryDirectory dir;
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{100 << 10, old_limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string message =
      user_error_of([&] { write_file_atomic(dir / "file", std::string(std::size_t{1} << 20, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("cannot write '" + (dir / "file").string()), std::string::npos) << message;
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_TRUE(dir.names().empty());
}

TEST(AtomicDirectory, AppearsOnlyAtCommit) {
  const TemporaryDirectory dir;
  AtomicDirectory out(dir / "checkpoint/");
  write_file_atomic(out.path() / "weights", "w");
  make_directories(out.path() / "a/b");
  write_file_atomic(out.path() / "a/b/state", "s");
  EXPECT_FALSE(fs::exists(dir / "checkpoint"));
  out.commit();
  EXPECT_EQ(read_file(dir / "checkpoint/weights"), "w");
  EXPECT_EQ(read_file(dir / "checkpoint/a/b/state"), "s");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"checkpoint"});
}

TEST(AtomicDirectory, IsRemovedWithoutCommit) {
  const TemporaryDirectory dir;
  {
    const AtomicDirectory out(dir / "checkpoint");
    write_file_atomic(out.path() / "weights", "w");
  }
  EXPECT_TRUE(dir.names().empty());
}

TEST(AtomicDirectory, TakesThePlaceOfAnEmptyDirectory) {
  const TemporaryDirectory dir;
  make_directories(dir / "out");
  AtomicDirectory out(dir / "out");
  write_file_atomic(out.path() / "x", "1");
  out.commit();
  EXPECT_EQ(read_file(dir / "out/x"), "1");
}

TEST(AtomicDirectory, RefusesADirectoryThatIsInUse) {
  const TemporaryDirectory dir;
  make_directories(dir / "out");
  write_file_atomic(dir / "out/precious", "p");
  EXPECT_USER_ERROR(AtomicDirectory{dir / "out"}, "exists and is not empty");
  EXPECT_EQ(read_file(dir / "out/precious"), "p");
}

TEST(AtomicDirectory, RefusesADirectoryThatCameIntoUseMeanwhile) {
  const TemporaryDirectory dir;
  {
    AtomicDirectory out(dir / "out");
    make_directories(dir / "out");
    write_file_atomic(dir / "out/precious", "p");
    EXPECT_USER_ERROR(out.commit(), "cannot create the directory");
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"out"});
  EXPECT_EQ(read_file(dir / "out/precious"), "p");
}

TEST(AtomicDirectory, ReplacesTheOldContentAsAWhole) {
  const TemporaryDirectory dir;
  make_directories(dir / "out");
  write_file_atomic(dir / "out/old", "o");
  AtomicDirectory out(dir / "out", Existing::Replace);
  write_file_atomic(out.path() / "new", "n");
  EXPECT_EQ(read_file(dir / "out/old"), "o");
  out.commit();
  EXPECT_EQ(read_file(dir / "out/new"), "n");
  EXPECT_FALSE(fs::exists(dir / "out/old"));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"out"});
}

TEST(AtomicDirectory, RefusesTheNameOfAFile) {
  const TemporaryDirectory dir;
  dir.write("out", "file");
  EXPECT_USER_ERROR(AtomicDirectory(dir / "out", Existing::Replace), "is a file");
}

TEST(RemoveLeftovers, RemovesWhatDeadProcessesBuiltAndNothingElse) {
  const TemporaryDirectory dir;
  make_directories(dir / "run.tmp-123/sub");  // without a lock
  make_directories(dir / "run-2.tmp-9-1-old");
  dir.write("run.tmp-8.lock", "");  // died before it made the directory
  dir.write("run.tmp-8-0", "a file");
  make_directories(dir / "run");
  AtomicDirectory alive(dir / "other");
  const std::vector<std::string> before = dir.names();
  EXPECT_EQ(before.size(), 7u);
  remove_leftovers(dir.path());
  const std::string mine = alive.path().filename().string();
  EXPECT_EQ(dir.names(), (std::vector<std::string>{mine, mine + ".lock", "run", "run.tmp-8-0"}));
  alive.commit();
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"other", "run", "run.tmp-8-0"}));
  remove_leftovers(dir / "none");
}

TEST(RemoveLeftovers, RemovesWhatAKilledProcessLeft) {
  const TemporaryDirectory dir;
  const pid_t child = fork();
  if (child == 0) {
    const AtomicDirectory killed(dir / "out");
    write_file_atomic(killed.path() / "file", "half");
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(dir.names().size(), 2u);
  remove_leftovers(dir.path());
  EXPECT_TRUE(dir.names().empty());
}

TEST(AtomicDirectory, OfTwoForOneDestinationEachHasItsOwn) {
  const TemporaryDirectory dir;
  AtomicDirectory first(dir / "out", Existing::Replace);
  AtomicDirectory second(dir / "out", Existing::Replace);
  EXPECT_NE(first.path(), second.path());
  first.commit();
  second.commit();
  EXPECT_EQ(dir.names(), std::vector<std::string>{"out"});
}

}  // namespace
}  // namespace nibble
