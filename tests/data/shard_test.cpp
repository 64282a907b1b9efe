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

std::filesystem::path write_masked(const TemporaryDirectory& dir, const std::string& name, std::int64_t vocab,
                                   const std::vector<std::int32_t>& tokens, const std::vector<std::uint8_t>& counted) {
  ShardWriter writer(dir / name, vocab, 0x1234, true);
  writer.append(tokens, counted);
  writer.commit();
  return dir / name;
}

std::vector<std::uint8_t> counted_of(const Shard& shard) {
  std::vector<std::uint8_t> counted(static_cast<std::size_t>(shard.tokens()));
  shard.copy_counted(0, counted);
  return counted;
}

TEST(MaskedShard, HasTheDocumentedLayout) {
  const TemporaryDirectory dir;
  const std::string plain = read_file(write_shard(dir, "a.bin", 300, {7, 8, 9, 10, 11, 12, 13, 14, 15, 16}));
  const std::string bytes =
      read_file(write_masked(dir, "b.bin", 300, {7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, {0, 1, 1, 0, 0, 0, 0, 1, 0, 1}));
  EXPECT_EQ(bytes.substr(0, 8), "NIBTOK02");
  EXPECT_EQ(bytes.substr(8, 24), plain.substr(8, 24));
  EXPECT_EQ(bytes.substr(48, 8), std::string("\x04\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(64), plain.substr(64) + "\x86\x02");
  std::uint64_t checksum;
  std::memcpy(&checksum, bytes.data() + 32, 8);
  EXPECT_EQ(checksum, xxh3_64(std::string_view(bytes).substr(64)));
}

RC_GTEST_PROP(MaskedShard, GivesBackTokensAndMaskHoweverTheyWereAppended,
              (const std::vector<std::pair<std::uint16_t, bool>>& content)) {
  const TemporaryDirectory dir;
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> counted;
  for (const auto& [token, counts] : content) {
    tokens.push_back(token);
    counted.push_back(counts ? 1 : 0);
  }
  const std::int64_t vocab = *rc::gen::element<std::int64_t>(65536, 70000);
  const auto cut = *rc::gen::inRange<std::size_t>(0, content.size() + 1);
  ShardWriter writer(dir / "a.bin", vocab, 1, true);
  writer.append(std::span(tokens).first(cut), std::span(counted).first(cut));
  writer.append(std::span(tokens).subspan(cut), std::span(counted).subspan(cut));
  writer.commit();
  const Shard shard(dir / "a.bin");
  shard.verify();
  RC_ASSERT(tokens_of(shard) == tokens);
  RC_ASSERT(counted_of(shard) == counted);
  RC_ASSERT(shard.header().counted == static_cast<std::uint64_t>(std::count(counted.begin(), counted.end(), 1)));
  std::vector<std::uint8_t> end(content.size() - cut);
  shard.copy_counted(static_cast<std::int64_t>(cut), end);
  RC_ASSERT(std::equal(end.begin(), end.end(), counted.begin() + static_cast<std::ptrdiff_t>(cut)));
}

TEST(MaskedShard, WithoutAMaskEveryTokenCounts) {
  const TemporaryDirectory dir;
  const Shard shard(write_shard(dir, "a.bin", 300, {1, 2, 3}));
  EXPECT_FALSE(shard.header().masked);
  EXPECT_EQ(shard.header().counted, 3u);
  EXPECT_EQ(counted_of(shard), (std::vector<std::uint8_t>{1, 1, 1}));
}

TEST(MaskedShard, RefusesWhatWasDamagedOrCutOff) {
  const TemporaryDirectory dir;
  const std::string bytes =
      read_file(write_masked(dir, "a.bin", 300, std::vector<std::int32_t>(100, 7), std::vector<std::uint8_t>(100, 1)));
  ASSERT_EQ(bytes.size(), 64u + 200u + 13u);
  for (const std::size_t less : {1u, 13u, 14u, 213u}) {
    expect_refused(dir, bytes, "is truncated", [&](std::string& b) { b.resize(b.size() - less); });
  }
  expect_refused(dir, bytes, "is too long", [](std::string& b) { b += "xx"; });
  expect_refused(dir, bytes, "header of the token shard", [](std::string& b) { b[48] = 1; });
  expect_refused(dir, bytes, "header of the token shard", [](std::string& b) { b[7] = '1'; });
  const auto refit = [](std::string& b, std::size_t at, std::uint64_t value) {
    std::memcpy(b.data() + at, &value, 8);
    const std::uint64_t checksum = xxh3_64(std::string_view(b).substr(0, 56));
    std::memcpy(b.data() + 56, &checksum, 8);
  };
  expect_refused(dir, bytes, "header of the token shard", [&](std::string& b) { refit(b, 48, 101); });
  for (const std::uint64_t tokens : {99ull, 101ull, 1ull << 63, ~0ull}) {
    expect_refused(dir, bytes, "", [&](std::string& b) { refit(b, 24, tokens), refit(b, 48, 0); });
  }
  for (std::size_t at = 264; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    const Shard shard(dir.write("changed.bin", changed));
    EXPECT_USER_ERROR(shard.verify(), "do not match their checksum");
  }
  std::string changed = bytes;
  refit(changed, 48, 99);
  EXPECT_USER_ERROR(Shard(dir.write("changed.bin", changed)).verify(), "its mask counts 100 tokens");
}

TEST(MaskedShard, AMaskIsGivenToTheShardsThatHaveOne) {
  const TemporaryDirectory dir;
  const std::vector<std::int32_t> tokens = {1, 2};
  const std::vector<std::uint8_t> counted = {1, 0};
  ShardWriter plain(dir / "a.bin", 300, 1);
  EXPECT_THROW(plain.append(tokens, counted), InternalError);
  ShardWriter masked(dir / "b.bin", 300, 1, true);
  EXPECT_THROW(masked.append(tokens), InternalError);
  EXPECT_THROW(masked.append(tokens, std::span(counted).first(1)), InternalError);
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
