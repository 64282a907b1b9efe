#include "nibble/data/loader.h"

#include <numeric>
#include <random>
#include <set>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

constexpr std::int64_t kVocab = 60000;

using Paths = std::vector<std::filesystem::path>;

/// Writes shards of the given lengths that hold 0, 1, 2, ... throughout.
Paths write_counting_shards(const TemporaryDirectory& dir, const std::vector<std::int64_t>& lengths) {
  Paths paths;
  std::int32_t next = 0;
  for (const std::int64_t length : lengths) {
    paths.push_back(dir / ("shard-" + std::to_string(paths.size()) + ".bin"));
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(length));
    for (std::int32_t& token : tokens) token = next++;
    ShardWriter writer(paths.back(), kVocab, 1);
    writer.append(tokens);
    writer.commit();
  }
  return paths;
}

ShardSet counting_shards(const TemporaryDirectory& dir, const std::vector<std::int64_t>& lengths) {
  return ShardSet(write_counting_shards(dir, lengths));
}

struct Batch {
  std::vector<std::int32_t> tokens, targets;
  friend bool operator==(const Batch&, const Batch&) = default;
};

Batch next(Loader& loader, std::int64_t batch) {
  const auto size = static_cast<std::size_t>(batch * loader.seq_len());
  Batch b{std::vector<std::int32_t>(size), std::vector<std::int32_t>(size)};
  loader.next_batch(batch, b.tokens.data(), b.targets.data());
  return b;
}

/// First token of each of the next n sequences: names the window.
std::vector<std::int32_t> first_tokens(Loader& loader, std::int64_t n) {
  std::vector<std::int32_t> firsts;
  for (std::int64_t i = 0; i < n; ++i) firsts.push_back(next(loader, 1).tokens[0]);
  return firsts;
}

TEST(Loader, CountsTheFullWindowsOfSeqLenPlusOne) {
  const TemporaryDirectory dir;
  for (const auto& [tokens, count] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{9, 1}, {16, 1}, {17, 2}, {24, 2}, {25, 3}, {1001, 125}}) {
    EXPECT_EQ(Loader(counting_shards(dir, {tokens}), 8, LoaderOrder::Sequential).count(), count) << tokens;
  }
}

TEST(Loader, SequentialOrderGivesEveryWindowWithItsTargets) {
  const TemporaryDirectory dir;
  Loader loader(counting_shards(dir, {10, 1, 0, 3, 40, 12}), 7, LoaderOrder::Sequential);
  ASSERT_EQ(loader.count(), 9);
  const Batch b = next(loader, 9);
  for (std::int32_t i = 0; i < 63; ++i) {
    EXPECT_EQ(b.tokens[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(b.targets[static_cast<std::size_t>(i)], i + 1);
  }
  EXPECT_EQ(loader.position(), (LoaderPosition{1, 0}));
  EXPECT_EQ(next(loader, 1).tokens[0], 0);
}

TEST(Loader, AnEpochVisitsEveryWindowOnce) {
  const TemporaryDirectory dir;
  Loader loader(counting_shards(dir, {500, 501}), 5, LoaderOrder::Shuffled, 17);
  std::vector<std::vector<std::int32_t>> epochs;
  for (int epoch = 0; epoch < 4; ++epoch) {
    epochs.push_back(first_tokens(loader, loader.count()));
    auto sorted = epochs.back();
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], static_cast<std::int32_t>(5 * i));
    EXPECT_EQ(loader.position(), (LoaderPosition{epoch + 1, 0}));
  }
  EXPECT_EQ(std::set(epochs.begin(), epochs.end()).size(), 4u);
}

TEST(Loader, TheOrderDependsOnTheSeedAlone) {
  const TemporaryDirectory dir;
  Loader a(counting_shards(dir, {300, 701}), 5, LoaderOrder::Shuffled, 1);
  const TemporaryDirectory other;
  Loader same(counting_shards(other, {1001}), 5, LoaderOrder::Shuffled, 1);
  Loader different(counting_shards(other, {1001}), 5, LoaderOrder::Shuffled, 2);
  const auto order = first_tokens(a, 200);
  EXPECT_EQ(first_tokens(same, 200), order);
  EXPECT_NE(first_tokens(different, 200), order);
}

TEST(Loader, BatchSizeDoesNotChangeTheSequenceOfSequences) {
  const TemporaryDirectory dir;
  Loader ones(counting_shards(dir, {1001}), 10, LoaderOrder::Shuffled, 3);
  Loader sevens(counting_shards(dir, {1001}), 10, LoaderOrder::Shuffled, 3);
  for (int step = 0; step < 40; ++step) {  // 280 sequences: beyond two epochs of 100
    const Batch batch = next(sevens, 7);
    for (std::size_t row = 0; row < 7; ++row) {
      const Batch single = next(ones, 1);
      ASSERT_TRUE(std::equal(single.tokens.begin(), single.tokens.end(), batch.tokens.begin() + row * 10));
      ASSERT_TRUE(std::equal(single.targets.begin(), single.targets.end(), batch.targets.begin() + row * 10));
    }
  }
}

TEST(Loader, ContinuesFromAnyPositionAsIfNeverInterrupted) {
  const TemporaryDirectory dir;
  const Paths paths = write_counting_shards(dir, {400, 333});
  const auto make = [&] { return Loader(ShardSet(paths), 9, LoaderOrder::Shuffled, 8); };
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    SCOPED_TRACE(testing::Message() << "seed 5, round " << round);
    Loader whole = make();
    for (unsigned i = 0, n = random() % 60; i < n; ++i) next(whole, 4);
    const LoaderPosition position = whole.position();
    Loader resumed = make();
    resumed.set_position(position);
    for (int i = 0; i < 30; ++i) ASSERT_EQ(next(resumed, 4), next(whole, 4));
    EXPECT_EQ(resumed.position(), whole.position());
  }
}

TEST(Loader, SkippingIsReadingWithoutTheTokens) {
  const TemporaryDirectory dir;
  Loader read(counting_shards(dir, {500}), 9, LoaderOrder::Shuffled);
  Loader skipped(counting_shards(dir, {500}), 9, LoaderOrder::Shuffled);
  next(read, 133);
  skipped.skip(133);
  EXPECT_EQ(skipped.position(), read.position());
  EXPECT_EQ(next(skipped, 2), next(read, 2));
}

TEST(Loader, RefusesAPositionOfOtherData) {
  const TemporaryDirectory dir;
  Loader loader(counting_shards(dir, {101}), 10, LoaderOrder::Shuffled);
  loader.set_position({3, 9});
  EXPECT_USER_ERROR(loader.set_position({0, 10}), "position 10 of epoch 0 does not exist in data of 10 sequences");
  EXPECT_USER_ERROR(loader.set_position({0, -1}), "does not exist");
  EXPECT_USER_ERROR(loader.set_position({-1, 0}), "does not exist");
  EXPECT_EQ(loader.position(), (LoaderPosition{3, 9}));
}

TEST(Loader, RefusesTooLittleData) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(Loader(counting_shards(dir, {8}), 8, LoaderOrder::Shuffled),
                    "8 tokens, too few for one sequence of 8");
  EXPECT_USER_ERROR(Loader(counting_shards(dir, {0}), 8, LoaderOrder::Shuffled), "0 tokens");
  EXPECT_USER_ERROR(Loader(counting_shards(dir, {1}), 1, LoaderOrder::Sequential), "too few");
}

/// Shards of the given lengths that hold 0, 1, 2, ... throughout, of which counts(token) do.
template <class F>
ShardSet counting_masked_shards(const TemporaryDirectory& dir, const std::vector<std::int64_t>& lengths, F&& counts) {
  Paths paths;
  std::int32_t next = 0;
  for (const std::int64_t length : lengths) {
    paths.push_back(dir / ("masked-" + std::to_string(paths.size()) + ".bin"));
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(length));
    std::vector<std::uint8_t> counted;
    for (std::int32_t& token : tokens) {
      token = next++;
      counted.push_back(counts(token) ? 1 : 0);
    }
    ShardWriter writer(paths.back(), kVocab, 1, true);
    writer.append(tokens, counted);
    writer.commit();
  }
  return ShardSet(paths);
}

TEST(MaskedLoader, TargetsThatDoNotCountAreIgnoredAndInputsStay) {
  const TemporaryDirectory dir;
  const auto counts = [](std::int32_t token) { return token % 3 == 1; };
  Loader loader(counting_masked_shards(dir, {10, 1, 0, 3, 40, 12}, counts), 7, LoaderOrder::Sequential);
  ASSERT_EQ(loader.count(), 9);
  const Batch b = next(loader, 9);
  for (std::int32_t i = 0; i < 63; ++i) {
    EXPECT_EQ(b.tokens[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(b.targets[static_cast<std::size_t>(i)], counts(i + 1) ? i + 1 : kIgnoredTarget);
  }
}

TEST(MaskedLoader, WindowsWithoutATargetThatCountsAreLeftOut) {
  const TemporaryDirectory dir;
  // Targets of window w are tokens 5 w + 1 to 5 w + 5: only windows 1, 7 and 12 have one that counts.
  const auto counts = [](std::int32_t token) { return token == 6 || token == 40 || token == 62; };
  for (const LoaderOrder order : {LoaderOrder::Sequential, LoaderOrder::Shuffled}) {
    Loader loader(counting_masked_shards(dir, {50, 52}, counts), 5, order, 4);
    ASSERT_EQ(loader.count(), 3);
    for (int epoch = 0; epoch < 3; ++epoch) {
      auto firsts = first_tokens(loader, 3);
      std::sort(firsts.begin(), firsts.end());
      EXPECT_EQ(firsts, (std::vector<std::int32_t>{5, 35, 60}));
    }
    EXPECT_EQ(loader.position(), (LoaderPosition{3, 0}));
  }
  EXPECT_USER_ERROR(Loader(counting_masked_shards(dir, {101}, [](std::int32_t token) { return token == 0; }), 5,
                           LoaderOrder::Shuffled),
                    "none of the 20 sequences of 5 tokens has one that counts");
}

TEST(MaskedLoader, AMaskOfOnesChangesNothing) {
  const TemporaryDirectory dir;
  Loader plain(counting_shards(dir, {300, 701}), 5, LoaderOrder::Shuffled, 1);
  Loader masked(counting_masked_shards(dir, {300, 701}, [](std::int32_t) { return true; }), 5, LoaderOrder::Shuffled,
                1);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(next(masked, 3), next(plain, 3));
  EXPECT_EQ(masked.shards().counted(), 1001);
  EXPECT_NE(masked.shards().fingerprint(), plain.shards().fingerprint());
}

TEST(ShardSet, CopiesAcrossShardBorders) {
  const TemporaryDirectory dir;
  const ShardSet set = counting_shards(dir, {3, 0, 1, 5, 0, 2});
  ASSERT_EQ(set.tokens(), 11);
  for (std::int64_t begin = 0; begin <= 11; ++begin) {
    for (std::int64_t end = begin; end <= 11; ++end) {
      std::vector<std::int32_t> out(static_cast<std::size_t>(end - begin)), expected(out.size());
      std::iota(expected.begin(), expected.end(), static_cast<std::int32_t>(begin));
      set.copy(begin, out);
      EXPECT_EQ(out, expected);
    }
  }
  std::vector<std::int32_t> out(2);
  EXPECT_THROW(set.copy(10, out), InternalError);
}

TEST(ShardSet, RefusesShardsOfDifferentTokenizers) {
  const TemporaryDirectory dir;
  const auto shard = [&](const std::string& name, std::int64_t vocab, std::uint64_t hash) {
    ShardWriter(dir / name, vocab, hash).commit();
    return dir / name;
  };
  EXPECT_USER_ERROR(ShardSet({shard("a", 100, 1), shard("b", 100, 2)}), "different tokenizers");
  EXPECT_USER_ERROR(ShardSet({shard("a", 100, 1), shard("b", 101, 1)}), "different tokenizers");
  EXPECT_USER_ERROR(ShardSet(Paths{}), "no token shard");
}

TEST(ShardSet, TheFingerprintTellsDataApart) {
  const TemporaryDirectory dir;
  const std::uint64_t whole = counting_shards(dir, {20, 30}).fingerprint();
  EXPECT_EQ(counting_shards(dir, {20, 30}).fingerprint(), whole);
  EXPECT_NE(counting_shards(dir, {30, 20}).fingerprint(), whole);
  EXPECT_NE(counting_shards(dir, {20, 30, 1}).fingerprint(), whole);
}

TEST(ShardSet, VerifyNamesTheDamagedShard) {
  const TemporaryDirectory dir;
  counting_shards(dir, {20, 30}).verify();
  std::string bytes = read_file(dir / "shard-1.bin");
  bytes[70] = static_cast<char>(bytes[70] ^ 1);
  dir.write("shard-1.bin", bytes);
  const ShardSet set({dir / "shard-0.bin", dir / "shard-1.bin"});
  EXPECT_USER_ERROR(set.verify(), "shard-1.bin' is damaged");
}

}  // namespace
}  // namespace nibble
