#include "nibble/numerics/philox.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

namespace nibble {
namespace {

constexpr bool equal(Philox4 a, Philox4 b) {
  return a.v[0] == b.v[0] && a.v[1] == b.v[1] && a.v[2] == b.v[2] && a.v[3] == b.v[3];
}

// The known-answer vectors of Random123, checked by the compiler: the function is usable in constant expressions.
static_assert(equal(philox4x32_10({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
static_assert(equal(philox4x32_10({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff),
                    {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
static_assert(equal(philox4x32_10({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
                    {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));

TEST(Philox, GivesTheKnownAnswersAtRunTime) {
  volatile std::uint32_t zero = 0;  // not foldable
  const std::uint32_t z = zero;
  EXPECT_TRUE(equal(philox4x32_10({{z, z, z, z}}, z, z), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
  EXPECT_TRUE(equal(philox4x32_10({{~z, ~z, ~z, ~z}}, ~z, ~z), {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
  EXPECT_TRUE(equal(philox4x32_10({{z + 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
                    {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}

TEST(RandomStream, PlacesGroupStepTensorInTheCounterAndTheSeedInTheKey) {
  const RandomStream stream{0x299f31d0a4093822u, 0x13198a2e, 0x03707344};
  EXPECT_TRUE(equal(stream.words(0x85a308d3243f6a88u), {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}

TEST(KeyedStream, GivesTheNumbersOfItsStream) {
  for (const RandomStream& stream : {RandomStream{0x299f31d0a4093822u, 0x13198a2e, 0x03707344}, RandomStream{},
                                     RandomStream{~std::uint64_t{0}, ~0u, ~0u}, RandomStream{1234, 7, 9}}) {
    const KeyedStream keyed(stream);
    for (const std::uint64_t element : {0ull, 1ull, 6ull, 4095ull, 0xFFFF'FFFFull, 0x85a308d3243f6a88ull, ~0ull}) {
      EXPECT_TRUE(equal(keyed.words(element), stream.words(element)));
      EXPECT_EQ(keyed.word(element), stream.word(element));
    }
  }
}

TEST(RandomStream, WordsAndBytesOfAnElementAreSlicesOfItsGroup) {
  const RandomStream stream{11, 22, 33};
  for (std::uint64_t e = 0; e < 64; ++e) {
    EXPECT_EQ(stream.word(e), stream.words(e / 4).v[e % 4]);
    const std::uint64_t in_group = e % 16;
    EXPECT_EQ(stream.byte(e), stream.words(e / 16).v[in_group / 4] >> (8 * (in_group % 4)) & 0xFF);
  }
}

std::vector<std::uint32_t> sample(const RandomStream& stream, std::uint64_t first = 0) {
  std::vector<std::uint32_t> words;
  for (std::uint64_t e = 0; e < 4096; ++e) words.push_back(stream.word(first + e));
  return words;
}

TEST(RandomStream, StreamsThatDifferInOneCoordinateAreUnrelated) {
  const RandomStream base{1234, 7, 9};
  const std::vector<std::uint32_t> words = sample(base);
  const std::vector<std::vector<std::uint32_t>> others = {
      sample({1235, 7, 9}), sample({1234 + (std::uint64_t{1} << 32), 7, 9}),
      sample({1234, 8, 9}), sample({1234, 7, 10}),
      sample({1234, 9, 7}), sample(base, std::uint64_t{1} << 34)};
  for (std::size_t i = 0; i < others.size(); ++i) {
    SCOPED_TRACE(i);
    int equal_bits = 0;
    int equal_words = 0;
    for (std::size_t e = 0; e < words.size(); ++e) {
      equal_bits += 32 - std::popcount(words[e] ^ others[i][e]);
      equal_words += words[e] == others[i][e];
    }
    // 131072 independent bits: standard deviation 181 about one half.
    EXPECT_NEAR(equal_bits, 65536, 5 * 181);
    EXPECT_LE(equal_words, 1);
  }
}

TEST(RandomStream, BytesAreUniform) {
  const RandomStream stream{5, 6, 7};
  std::vector<int> count(256);
  constexpr int kSamples = 1 << 16;
  for (std::uint64_t e = 0; e < kSamples; ++e) ++count[stream.byte(e)];
  double chi2 = 0;
  for (int c : count) chi2 += (c - 256.0) * (c - 256.0) / 256.0;
  EXPECT_NEAR(chi2, 255, 5 * std::sqrt(2 * 255.0));
}

TEST(RandomStream, Uniform24CoversTheHalfOpenInterval) {
  EXPECT_EQ(uniform24(0), 0.0f);
  EXPECT_EQ(uniform24(0xFF), 0.0f);
  EXPECT_EQ(uniform24(0x8000'0000u), 0.5f);
  EXPECT_EQ(uniform24(0xFFFF'FFFFu), 1.0f - 0x1p-24f);
}

}  // namespace
}  // namespace nibble
