#include "nibble/io/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

TEST(Crc32c, GivesTheCheckValue) { EXPECT_EQ(crc32c("123456789"), 0xE3069283u); }

TEST(Crc32c, GivesTheVectorsOfRfc3720) {
  std::string up;
  for (int i = 0; i < 32; ++i) up += static_cast<char>(i);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  EXPECT_EQ(crc32c(up), 0x46DD794Eu);
  EXPECT_EQ(crc32c(std::string(up.rbegin(), up.rend())), 0x113FDB5Cu);
}

TEST(Crc32c, OfNothingIsZero) { EXPECT_EQ(crc32c(""), 0u); }

TEST(Crc32c, IsEvaluatedAtCompileTime) { static_assert(crc32c("123456789") == 0xE3069283u); }

TEST(Crc32c, UnmasksToThePlainValue) {
  const std::uint32_t rotated = masked_crc32c("123456789") - 0xA282EAD8u;
  EXPECT_EQ((rotated >> 17) | (rotated << 15), 0xE3069283u);
}

}  // namespace
}  // namespace nibble
