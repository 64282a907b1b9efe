#include "nibble/data/shard.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "nibble/tensor/error.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

std::vector<std::int32_t> tokens_of(const Shard& shard) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(shard.tokens()));
  shard.copy(0, tokens);
  return tokens;
}

std::filesystem::path write_shard(const TemporaryDirectory& dir, const std::string& name, std::int64_t vocab,
                                  const std::vector<std::int32_t>& tokens) {
  ShardWriter writer(dir / name, vocab, 0x1234);
  writer.append(tokens);
  writer.commit();
  return dir / name;
}

/// The shard with its bytes changed by `edit`, opened.
template <class F>
void expect_refused(const TemporaryDirectory& dir, const std::string& bytes, const std::string& fragment, F&& edit) {
  std::string changed = bytes;
  edit(changed);
  const std::string path = dir.write("changed.bin", changed);
  const std::string message = user_error_of([&] { Shard{path}; });
  EXPECT_NE(message.find(path), std::string::npos) << message;
  EXPECT_NE(message.find(fragment), std::string::npos) << message;
}

TEST(Shard, HasTheDocumentedLayout) {
  const TemporaryDirectory dir;
  const std::string bytes = read_file(write_shard(dir, "a.bin", 32000, {1, 2, 0x1234}));
  ASSERT_EQ(bytes.size(), 64u + 6u);
  EXPECT_EQ(bytes.substr(0, 8), "NIBTOK01");
  const auto u32 = [&](std::size_t at) {
    std::uint32_t v;
    std::memcpy(&v, bytes.data() + at, 4);
    return v;
  };
  const auto u64 = [&](std::size_t at) {
    std::uint64_t v;
    std::memcpy(&v, bytes.data() + at, 8);
    return v;
  };
  EXPECT_EQ(u32(8), 64u);
  EXPECT_EQ(u32(12), 2u);
  EXPECT_EQ(u64(16), 32000u);
  EXPECT_EQ(u64(24), 3u);
  EXPECT_EQ(u64(32), xxh3_64(std::string_view(bytes).substr(64)));
  EXPECT_EQ(u64(40), 0x1234u);
  EXPECT_EQ(u64(48), 0u);
  EXPECT_EQ(u64(56), xxh3_64(std::string_view(bytes).substr(0, 56)));
  EXPECT_EQ(bytes.substr(64), std::string("\x01\x00\x02\x00\x34\x12", 6));
}

TEST(Shard, TakesTwoBytesATokenUpToAVocabularyOf65536) {
  const TemporaryDirectory dir;
  const Shard narrow(write_shard(dir, "a.bin", 65536, {0, 65535}));
  EXPECT_EQ(narrow.header().token_bytes(), 2);
  EXPECT_EQ(tokens_of(narrow), (std::vector<std::int32_t>{0, 65535}));
  const Shard wide(write_shard(dir, "b.bin", 65537, {0, 65536}));
  EXPECT_EQ(wide.header().token_bytes(), 4);
  EXPECT_EQ(tokens_of(wide), (std::vector<std::int32_t>{0, 65536}));
}

TEST(Shard, MayBeEmpty) {
  const TemporaryDirectory dir;
  const Shard shard(write_shard(dir, "a.bin", 100, {}));
  EXPECT_EQ(shard.tokens(), 0);
  shard.verify();
}

RC_GTEST_PROP(ShardProperty, GivesBackWhatWasAppendedInPieces, ()) {
  const std::int64_t vocab = *rc::gen::element<std::int64_t>(1, 300, 65536, 65537, 1 << 30);
  const auto pieces =
      *rc::gen::container<std::vector<std::vector<std::int32_t>>>(rc::gen::container<std::vector<std::int32_t>>(
          rc::gen::inRange<std::int32_t>(0, static_cast<std::int32_t>(vocab))));
  const TemporaryDirectory dir;
  std::vector<std::int32_t> all;
  {
    ShardWriter writer(dir / "p.bin", vocab, 7);
    for (const auto& piece : pieces) {
      writer.append(piece);
      all.insert(all.end(), piece.begin(), piece.end());
    }
    RC_ASSERT(writer.tokens() == static_cast<std::int64_t>(all.size()));
    writer.commit();
  }
  const Shard shard(dir / "p.bin");
  shard.verify();
  RC_ASSERT(tokens_of(shard) == all);
  const auto begin = *rc::gen::inRange<std::size_t>(0, all.size() + 1);
  const auto end = *rc::gen::inRange<std::size_t>(begin, all.size() + 1);
  std::vector<std::int32_t> part(end - begin);
  shard.copy(static_cast<std::int64_t>(begin), part);
  RC_ASSERT(std::equal(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(begin)));
}

TEST(Shard, IsInvisibleUntilItIsComplete) {
  const TemporaryDirectory dir;
  {
    ShardWriter writer(dir / "a.bin", 100, 0);
    writer.append(std::vector<std::int32_t>(500000, 3));
    EXPECT_FALSE(std::filesystem::exists(dir / "a.bin"));
  }
  EXPECT_TRUE(dir.names().empty());
}

TEST(Shard, TheWriterRefusesTokensOutsideTheVocabulary) {
  const TemporaryDirectory dir;
  ShardWriter writer(dir / "a.bin", 100, 0);
  EXPECT_THROW(writer.append(std::vector<std::int32_t>{5, 100}), InternalError);
  EXPECT_THROW(writer.append(std::vector<std::int32_t>{-1}), InternalError);
  EXPECT_THROW(ShardWriter(dir / "b.bin", 0, 0), InternalError);
}

TEST(Shard, EveryDamagedHeaderByteIsRefused) {
  const TemporaryDirectory dir;
  const std::string bytes = read_file(write_shard(dir, "a.bin", 300, {1, 2, 3}));
  for (std::size_t at = 0; at < 64; ++at) {
    SCOPED_TRACE(at);
    expect_refused(dir, bytes, at < 8 ? "is not a token shard" : "header",
                   [&](std::string& b) { b[at] = static_cast<char>(b[at] ^ 0x40); });
  }
}

TEST(Shard, EveryTruncationIsRefused) {
  const TemporaryDirectory dir;
  const std::string bytes = read_file(write_shard(dir, "a.bin", 300, {1, 2, 3}));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    SCOPED_TRACE(size);
    const char* fragment = size < 8 ? "is not a token shard" : size < 64 ? "truncated in its header" : "truncated";
    expect_refused(dir, bytes, fragment, [&](std::string& b) { b.resize(size); });
  }
}

TEST(Shard, BytesBehindTheLastTokenAreRefused) {
  const TemporaryDirectory dir;
  const std::string bytes = read_file(write_shard(dir, "a.bin", 300, {1, 2, 3}));
  expect_refused(dir, bytes, "too long", [](std::string& b) { b += 'x'; });
  expect_refused(dir, bytes, "too long", [](std::string& b) { b += "xy"; });
}

TEST(Shard, AForeignFileIsRefused) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(Shard{dir.write("a.txt", std::string(1000, 'x'))}, "is not a token shard; make one with");
  EXPECT_USER_ERROR(Shard{dir / "none.bin"}, "No such file or directory");
}

TEST(Shard, VerifyFindsAnyDamagedToken) {
  const TemporaryDirectory dir;
  std::string bytes = read_file(write_shard(dir, "a.bin", 300, std::vector<std::int32_t>(100, 7)));
  for (std::size_t at = 64; at < bytes.size(); at += 13) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    const std::string path = dir.write("changed.bin", bytes);
    const Shard shard(path);
    EXPECT_USER_ERROR(shard.verify(), "'" + path + "' is damaged: its tokens do not match their checksum");
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
  }
}

TEST(Shard, NeverHandsOutATokenOutsideTheVocabulary) {
  const TemporaryDirectory dir;
  for (const std::int64_t vocab : {300, 70000}) {
    std::string bytes = read_file(write_shard(dir, "a.bin", vocab, std::vector<std::int32_t>(100, 7)));
    bytes.back() = '\xFF';
    const Shard shard(dir.write("changed.bin", bytes));
    std::vector<std::int32_t> out(99);
    shard.copy(0, out);
    EXPECT_USER_ERROR(shard.copy(1, out), "in a vocabulary of");
  }
}

TEST(Shard, RefusesARangeItDoesNotHave) {
  const TemporaryDirectory dir;
  const Shard shard(write_shard(dir, "a.bin", 300, {1, 2, 3}));
  std::vector<std::int32_t> out(2);
  EXPECT_THROW(shard.copy(2, out), InternalError);
  EXPECT_THROW(shard.copy(-1, out), InternalError);
  EXPECT_THROW(shard.copy(4, {}), InternalError);
}

}  // namespace
}  // namespace nibble
