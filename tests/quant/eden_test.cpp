// MS-EDEN (Quartet II): its published block, and how it corrects what rounding to nearest shrinks.
#include "tests/quant/measure.h"

namespace nibble {
namespace {

TEST(Eden, ThePublishedBlockHasTheTabledScaleAndElements) {
  const std::vector<float> block = {6,    5.2f, -4.6f, 3.3f, -2.7f, 2.2f, 1.8f, -1.4f,
                                    1.1f, .8f,  -.6f,  .4f,  .3f,   -.2f, .1f,  0};
  constexpr std::int64_t kRows = 100000;
  std::vector<float> x;
  for (std::int64_t r = 0; r < kRows; ++r) x.insert(x.end(), block.begin(), block.end());
  Arena arena;
  const QTensor q = quantise(x, kRows, eden(16), arena);
  EXPECT_NEAR(q.tensor_scale, .003860014, 1e-9);
  const std::vector<float> elements = {6, 6, -4, 3, -3, 2, 2, -1.5f, 1, 1, -.5f, .5f, .5f, -0.0f, 0, 0};
  double zz = 0, zq = 0;
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(reference::four_bit_value(ElementFormat::E2M1, reference::code_at(q, 0, static_cast<std::int64_t>(i))),
              static_cast<double>(elements[i]));
    const double z = static_cast<double>(block[i]) / (256 * static_cast<double>(q.tensor_scale));
    zz += z * z;
    zq += z * static_cast<double>(elements[i]);
  }
  EXPECT_NEAR(zz, 117.699796, 1e-4);
  EXPECT_NEAR(zq, 117.642464, 1e-4);
  // s S = 256.124759 is rounded to 256 or 288, up with probability .0038987.
  std::int64_t up = 0;
  for (std::int64_t r = 0; r < kRows; ++r) {
    const std::uint8_t code = q.scales.data<std::uint8_t>()[r];
    ASSERT_TRUE(code == 0x78 || code == 0x79) << r;
    up += code == 0x79 ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(up), .0038987 * kRows, 5 * std::sqrt(.0038987 * kRows));
}

TEST(Eden, CorrectedGroupsKeepTheirProjectionOnTheInputOnAverage) {
  // In units of the uncorrected scales sum z q' = sum z^2 over each correction group, for the mean over the rounding.
  const std::vector<float> x = reference::gaussian(64, 3);
  std::vector<float> rows;
  constexpr std::int64_t kRows = 20000;
  for (std::int64_t r = 0; r < kRows; ++r) rows.insert(rows.end(), x.begin(), x.end());
  Arena arena;
  const QTensor uncorrected = quantise(x, 1, nvfp4(Rounding::NearestEven, eden(16).nvfp4), arena);
  for (const std::int64_t group : {16, 32, 64}) {
    const QTensor q = quantise(rows, kRows, eden(group), arena);
    const std::vector<float> values = values_of(q);
    for (std::int64_t begin = 0; begin < 64; begin += group) {
      double dot = 0, square = 0;
      for (std::int64_t c = begin; c < begin + group; ++c) {
        const double s = uncorrected.scale_at(0, c);
        const double z = static_cast<double>(x[static_cast<std::size_t>(c)]) / s;
        square += z * z;
        for (std::int64_t r = 0; r < kRows; ++r)
          dot += z * static_cast<double>(values[static_cast<std::size_t>(r * 64 + c)]) / s;
      }
      EXPECT_NEAR(dot / kRows / square, 1, 1e-3) << "group " << group << " at " << begin;
    }
  }
}

TEST(Eden, TheStreamIsDrawnByBlocks) {
  // An offset of sixteen elements moves the random numbers by one block.
  const std::vector<float> x = reference::gaussian(160, 8);
  std::vector<float> shifted(x.begin() + 16, x.end());
  shifted[0] = x[16];
  QuantizeContext context;
  context.random = {5, 6, 7};
  QuantizeContext later = context;
  later.element_offset = 16;
  // The tensor scales must agree for the blocks to do so.
  std::vector<float> head = x;
  head[0] = 100;
  shifted.push_back(100);
  for (int i = 0; i < 15; ++i) shifted.push_back(0);
  Arena arena;
  const QTensor a = quantise(head, 1, eden(16), arena, context);
  const QTensor b = quantise(shifted, 1, eden(16), arena, later);
  for (std::int64_t j = 1; j < 10; ++j) {
    EXPECT_EQ(a.scales.data<std::uint8_t>()[j], b.scales.data<std::uint8_t>()[j - 1]) << j;
  }
}

}  // namespace
}  // namespace nibble
