#include "nibble/io/checksum.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <random>

namespace nibble {
namespace {

// The test vectors of xxHash 0.8 (XXH3, 64 bits, seed 0): the buffer is filled by a 64-bit product chain.
std::string sanity_buffer(std::size_t size) {
  std::string bytes(size, '\0');
  std::uint64_t generator = 2654435761u;
  for (char& c : bytes) {
    c = static_cast<char>(generator >> 56);
    generator *= 11400714785074694797ull;
  }
  return bytes;
}

TEST(Xxh3, ReproducesThePublishedVectors) {
  EXPECT_EQ(xxh3_64(sanity_buffer(0)), 0x2D06800538D394C2u);
  EXPECT_EQ(xxh3_64(sanity_buffer(1)), 0xC44BDFF4074EECDBu);
  EXPECT_EQ(xxh3_64(sanity_buffer(6)), 0x27B56A84CD2D7325u);
  EXPECT_EQ(xxh3_64(sanity_buffer(12)), 0xA713DAF0DFBB77E7u);
  EXPECT_EQ(xxh3_64(sanity_buffer(24)), 0xA3FE70BF9D3510EBu);
  EXPECT_EQ(xxh3_64(sanity_buffer(48)), 0x397DA259ECBA1F11u);
  EXPECT_EQ(xxh3_64(sanity_buffer(80)), 0xBCDEFBBB2C47C90Au);
  EXPECT_EQ(xxh3_64(sanity_buffer(195)), 0xCD94217EE362EC3Au);
  EXPECT_EQ(xxh3_64(sanity_buffer(403)), 0xCDEB804D65C6DEA4u);
  EXPECT_EQ(xxh3_64(sanity_buffer(512)), 0x617E49599013CB6Bu);
  EXPECT_EQ(xxh3_64(sanity_buffer(2048)), 0xDD59E2C3A5F038E0u);
  EXPECT_EQ(xxh3_64(sanity_buffer(2240)), 0x6E73A90539CF2948u);
}

TEST(Xxh3, AStreamOfPiecesGivesTheValueOfTheWhole) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE(fmt::format("seed 7, round {}", round));
    const std::string bytes = sanity_buffer(random() % 5000);
    Xxh3Stream stream;
    std::span<const std::byte> rest = std::as_bytes(std::span(bytes));
    while (!rest.empty()) {
      const std::size_t n = std::min<std::size_t>(rest.size(), random() % 700);
      stream.update(rest.first(n));
      rest = rest.subspan(n);
    }
    EXPECT_EQ(stream.digest(), xxh3_64(bytes));
  }
}

TEST(Xxh3, EveryFlippedBitChangesTheChecksum) {
  std::string bytes = sanity_buffer(333);
  const std::uint64_t before = xxh3_64(bytes);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(xxh3_64(bytes), before) << bit;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
  }
}

TEST(Hex64, WritesSixteenDigits) {
  EXPECT_EQ(hex64(0), "0000000000000000");
  EXPECT_EQ(hex64(0xFEDCBA9876543210u), "fedcba9876543210");
}

}  // namespace
}  // namespace nibble
