#include "nibble/io/ggml_pack.h"

#include <gtest/gtest.h>

#include <vector>

#include "nibble/io/ggml_blocks.h"
#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

/// Element i has the code (7 i + 3) mod 16: neighbours and the elements that share a byte all differ.
std::uint8_t code_of(std::size_t element) { return static_cast<std::uint8_t>((7 * element + 3) % 16); }

std::vector<std::uint8_t> codes(std::size_t elements) {
  std::vector<std::uint8_t> packed(elements / 2);
  for (std::size_t i = 0; i < elements; ++i) {
    packed[i / 2] = static_cast<std::uint8_t>(packed[i / 2] | code_of(i) << (i % 2 * 4));
  }
  return packed;
}

std::vector<int> as_ints(const std::vector<std::byte>& bytes) {
  std::vector<int> values;
  for (const std::byte b : bytes) values.push_back(std::to_integer<int>(b));
  return values;
}

TEST(PackGgmlFp4, Mxfp4HasTheScaleAndThenElementsJAndJPlus16InAByte) {
  std::vector<std::byte> block(17);
  pack_ggml_fp4(GgmlType::MXFP4, codes(32), std::vector<std::uint8_t>{129}, block);
  // Element 0 is 3, element 16 is (112 + 3) mod 16 = 3, element 1 is 10, element 17 is 10 ...
  const std::vector<int> golden = {129,  0x33, 0xAA, 0x11, 0x88, 0xFF, 0x66, 0xDD, 0x44,
                                   0xBB, 0x22, 0x99, 0x00, 0x77, 0xEE, 0x55, 0xCC};
  EXPECT_EQ(as_ints(block), golden);
}

TEST(PackGgmlFp4, Nvfp4HasFourScalesAndThenElementsJAndJPlus8OfEachGroupInAByte) {
  std::vector<std::byte> block(36);
  pack_ggml_fp4(GgmlType::NVFP4, codes(64), std::vector<std::uint8_t>{1, 56, 126, 64}, block);
  // Element 0 is 3, element 8 is (56 + 3) mod 16 = 11; all groups of 16 have the same codes, as 7 * 16 is 0 mod 16.
  const std::vector<int> group = {0xB3, 0x2A, 0x91, 0x08, 0x7F, 0xE6, 0x5D, 0xC4};
  std::vector<int> golden = {1, 56, 126, 64};
  for (int g = 0; g < 4; ++g) golden.insert(golden.end(), group.begin(), group.end());
  EXPECT_EQ(as_ints(block), golden);
}

TEST(PackGgmlFp4, TheDecoderFindsEachElementAtItsPlaceUnderItsScale) {
  for (const GgmlType type : {GgmlType::MXFP4, GgmlType::NVFP4}) {
    const GgmlTypeInfo& info = ggml_type_info(type);
    const auto elements = static_cast<std::size_t>(3 * info.block_size);
    const std::size_t group = type == GgmlType::MXFP4 ? 32 : 16;
    std::vector<std::uint8_t> scales;
    for (std::size_t s = 0; s < elements / group; ++s) scales.push_back(static_cast<std::uint8_t>(100 + s));
    std::vector<std::byte> blocks(static_cast<std::size_t>(3 * info.block_bytes));
    pack_ggml_fp4(type, codes(elements), scales, blocks);
    std::vector<float> values(elements);
    decode_ggml(type, blocks, values);
    for (std::size_t i = 0; i < elements; ++i) {
      const std::uint8_t s = scales[i / group];
      EXPECT_EQ(values[i], e2m1_decode(code_of(i)) * (group == 32 ? e8m0_decode(s) : e4m3_decode(s)))
          << info.name << " " << i;
    }
  }
}

TEST(PackGgmlFp4, RefusesOtherTypesAndLengthsThatDoNotFit) {
  std::vector<std::byte> block(17);
  EXPECT_THROW(pack_ggml_fp4(GgmlType::Q4_0, codes(32), std::vector<std::uint8_t>{1}, block), InternalError);
  EXPECT_THROW(pack_ggml_fp4(GgmlType::MXFP4, codes(32), std::vector<std::uint8_t>{1, 2}, block), InternalError);
  EXPECT_THROW(pack_ggml_fp4(GgmlType::MXFP4, codes(30), std::vector<std::uint8_t>{1}, block), InternalError);
}

}  // namespace
}  // namespace nibble
