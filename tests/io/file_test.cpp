#include "nibble/io/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::string text_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST(ReadFile, GivesBackEveryByteForSizesAroundTheBuffers) {
  const TemporaryDirectory dir;
  for (const std::size_t size : {0u, 1u, 4095u, 4096u, 4097u, 262143u, 262144u, 262145u, 1000003u}) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
    const std::string path = dir.write("file", bytes);
    EXPECT_EQ(read_file(path), bytes) << size;
    EXPECT_EQ(text_of(MappedFile(path).bytes()), bytes) << size;
  }
}

TEST(ReadFile, ReadsFilesThatDoNotKnowTheirSize) {
  EXPECT_NE(read_file("/proc/self/status").find("Pid:"), std::string::npos);
}

TEST(ReadFile, NamesThePathAndTheReasonWhenItFails) {
  const TemporaryDirectory dir;
  const std::string missing = (dir / "missing").string();
  EXPECT_USER_ERROR(read_file(missing), "cannot open '" + missing + "': No such file or directory");
  EXPECT_USER_ERROR(MappedFile{missing}, "cannot open '" + missing + "': No such file or directory");
  EXPECT_USER_ERROR(read_file(dir.path()), "Is a directory");
  EXPECT_USER_ERROR(MappedFile{dir.path()}, "Is a directory");
}

TEST(MappedFile, MovesItsMapping) {
  const TemporaryDirectory dir;
  MappedFile a(dir.write("a", "first"));
  MappedFile b(std::move(a));
  EXPECT_TRUE(a.bytes().empty());
  EXPECT_EQ(text_of(b.bytes()), "first");
  a = MappedFile(dir.write("b", "second"));
  EXPECT_EQ(text_of(a.bytes()), "second");
}

TEST(InputFile, ReadsAPipeToItsEnd) {
  const TemporaryDirectory dir;
  const fs::path pipe = dir / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] {
    FILE* file = std::fopen(pipe.c_str(), "w");
    for (int i = 0; i < 5; ++i) {
      std::fputs("hello ", file);
      std::fflush(file);
    }
    std::fclose(file);
  });
  InputFile input(pipe);
  std::string text(100, '\0');
  text.resize(input.read(std::as_writable_bytes(std::span(text))));
  writer.join();
  EXPECT_EQ(text, "hello hello hello hello hello ");
  EXPECT_EQ(input.size(), 0u);
}

TEST(MakeDirectories, CreatesParentsAndAcceptsWhatIsThere) {
  const TemporaryDirectory dir;
  make_directories(dir / "a/b/c");
  make_directories(dir / "a/b/c");
  EXPECT_TRUE(fs::is_directory(dir / "a/b/c"));
}

TEST(MakeDirectories, RefusesAPathBelowAFile) {
  const TemporaryDirectory dir;
  dir.write("file", "x");
  EXPECT_USER_ERROR(make_directories(dir / "file/below"),
                    "cannot create the directory '" + (dir / "file/below").string());
}

TEST(FsyncDirectory, RefusesAFile) {
  const TemporaryDirectory dir;
  fsync_directory(dir.path());
  EXPECT_USER_ERROR(fsync_directory(dir.write("file", "x")), "Not a directory");
}

}  // namespace
}  // namespace nibble
