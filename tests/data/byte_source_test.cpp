#include "nibble/data/byte_source.h"

#include <fcntl.h>
#include <unistd.h>

#include <random>

#include "tests/data/compress.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

std::string read_all(const std::filesystem::path& path, std::size_t piece = 1000) {
  const auto source = open_byte_source(path);
  std::string text;
  for (std::vector<char> buffer(piece);;) {
    const std::size_t n = source->read(std::as_writable_bytes(std::span(buffer)));
    text.append(buffer.data(), n);
    if (n < piece) break;
  }
  if (path != "-") {
    EXPECT_EQ(source->file_bytes_read(), std::filesystem::file_size(path));
  }
  return text;
}

/// Compressible in part, and longer than any buffer in the path.
std::string sample_text(std::size_t size) {
  std::mt19937 random(3);
  std::string text;
  while (text.size() < size) text += "line " + std::to_string(random()) + (random() % 3 ? " of text\n" : "\n");
  text.resize(size);
  return text;
}

/// Runs f with standard input taken from a file.
template <class F>
void with_stdin(const std::filesystem::path& path, F&& f) {
  const int saved = ::dup(STDIN_FILENO);
  const int file = ::open(path.c_str(), O_RDONLY);
  ::dup2(file, STDIN_FILENO);
  f();
  ::dup2(saved, STDIN_FILENO);
  ::close(saved);
  ::close(file);
}

TEST(ByteSource, GivesTheSameTextFromEveryFormat) {
  const TemporaryDirectory dir;
  for (const std::size_t size : {0u, 1u, 3u, 262144u, 1500000u}) {
    SCOPED_TRACE(fmt::format("seed 3, size {}", size));
    const std::string text = sample_text(size);
    for (const std::size_t piece : {7u, 4096u, 1u << 20}) {
      if (piece == 7 && size > 300000) continue;
      EXPECT_EQ(read_all(dir.write("a.txt", text), piece), text);
      EXPECT_EQ(read_all(dir.write("a.txt.gz", gzip(text)), piece), text);
      EXPECT_EQ(read_all(dir.write("a.txt.zst", zstd(text)), piece), text);
    }
  }
}

TEST(ByteSource, ReadsConcatenatedMembersAndFrames) {
  const TemporaryDirectory dir;
  const std::string text = sample_text(700000);
  EXPECT_EQ(read_all(dir.write("a.gz", gzip(text) + gzip("") + gzip("tail"))), text + "tail");
  EXPECT_EQ(read_all(dir.write("a.zst", zstd(text) + zstd("") + zstd_skippable("ignored") + zstd("tail"))),
            text + "tail");
  EXPECT_EQ(read_all(dir.write("b.zst", zstd_skippable("first") + zstd("x"))), "x");
}

TEST(ByteSource, RecognisesCompressionByContent) {
  const TemporaryDirectory dir;
  EXPECT_EQ(read_all(dir.write("dictionary.dz", gzip("entries"))), "entries");
  EXPECT_EQ(read_all(dir.write("noname", zstd("entries"))), "entries");
}

TEST(ByteSource, ReadsStandardInputOfAnyFormat) {
  const TemporaryDirectory dir;
  const std::string text = sample_text(600000);
  for (const std::string& bytes : {text, gzip(text), zstd(text)}) {
    with_stdin(dir.write("in", bytes), [&] { EXPECT_EQ(read_all("-"), text); });
  }
}

TEST(ByteSource, AcceptsZstandardWindowsUpTo128MiB) {
  const TemporaryDirectory dir;
  EXPECT_EQ(read_all(dir.write("a.zst", zstd("long distance", 27))), "long distance");
  const std::string path = dir.write("b.zst", zstd("too far", 28));
  EXPECT_USER_ERROR(read_all(path), path);
  EXPECT_USER_ERROR(read_all(path), "too much memory");
}

TEST(ByteSource, NamesTheFileForEveryTruncation) {
  const TemporaryDirectory dir;
  const std::string text = sample_text(300);
  for (const char* name : {"a.gz", "a.zst"}) {
    const std::string whole = std::string(name) == "a.gz" ? gzip(text) : zstd(text);
    for (const std::string& before : {std::string(), whole}) {  // alone, and as the second member
      for (std::size_t size = 4; size < whole.size(); ++size) {
        const std::string path = (dir / name).string();
        FILE* file = std::fopen(path.c_str(), "wb");  // not synced: this loop is long
        std::fwrite(before.data(), 1, before.size(), file);
        std::fwrite(whole.data(), 1, size, file);
        std::fclose(file);
        const std::string message = user_error_of([&] { read_all(path); });
        EXPECT_NE(message.find(path), std::string::npos) << size << " " << message;
        EXPECT_NE(message.find("truncated"), std::string::npos) << size << " " << message;
      }
    }
  }
}

TEST(ByteSource, NamesTheFileWhenBytesAreDamaged) {
  const TemporaryDirectory dir;
  const std::string text = sample_text(5000);
  for (const char* name : {"a.gz", "a.zst"}) {
    std::string bytes = std::string(name) == "a.gz" ? gzip(text) : zstd(text);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x10);
    const std::string path = dir.write(name, bytes);
    const std::string message = user_error_of([&] { read_all(path); });
    EXPECT_NE(message.find(path), std::string::npos) << message;
    EXPECT_NE(message.find("corrupt"), std::string::npos) << message;
  }
}

TEST(ByteSource, RefusesRubbishBehindAMember) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(read_all(dir.write("a.gz", gzip("x") + "rubbish")), "corrupt");
  EXPECT_USER_ERROR(read_all(dir.write("a.zst", zstd("x") + "rubbish")), "corrupt");
}

TEST(ByteSource, RefusesANameThatLies) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(open_byte_source(dir.write("a.gz", "plain")), "is not gzip data");
  EXPECT_USER_ERROR(open_byte_source(dir.write("a.zst", "plain")), "is not Zstandard data");
  EXPECT_USER_ERROR(open_byte_source(dir.write("empty.gz", "")), "is not gzip data");
}

}  // namespace
}  // namespace nibble
