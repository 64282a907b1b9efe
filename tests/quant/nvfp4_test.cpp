// NVFP4 and four-over-six: published blocks, byte for byte.
#include "tests/quant/measure.h"

namespace nibble {
namespace {

/// The block and another one with amax 4, so that s_enc = 672.
std::vector<float> under_amax_4(std::vector<float> block) {
  block.resize(32, 0.0f);
  block[16] = 4;
  return block;
}

struct Golden {
  const char* name;
  std::vector<float> block;
  std::uint8_t scale;
  std::vector<std::uint8_t> bytes;
};

TEST(Nvfp4, BlocksUnderATensorAmaxOf4HaveTheTabledBytes) {
  std::vector<float> ramp(16), small(16);
  for (std::size_t i = 0; i < 16; ++i) {
    ramp[i] = -4 + 0.5f * static_cast<float>(i);
    small[i] = static_cast<float>(i) * 1e-5f;
  }
  const Golden rows[] = {
      {"ramp", ramp, 0x7E, {0xFF, 0xEE, 0xCD, 0xAB, 0x20, 0x43, 0x65, 0x76}},
      {"clipped by the scale",
       {.3f, -.2f, .1f, .05f, -.01f, .25f, -.3f, .15f, 0, .02f, -.07f, .12f, -.17f, .22f, -.27f, .28f},
       0x60,
       {0xE7, 0x24, 0x78, 0x5F, 0x10, 0x5B, 0x6E, 0x7F}},
      {"subnormal boundary", small, 0x09, {0x10, 0x22, 0x43, 0x54, 0x55, 0x66, 0x66, 0x77}},
  };
  for (const Golden& row : rows) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      std::vector<float> x = under_amax_4(row.block);
      const OwnedTensor tensor = reference::make_tensor(dtype, 1, 32, x);
      if (dtype == DType::BF16 && x != under_amax_4(row.block)) continue;  // only the ramp is BF16
      SCOPED_TRACE(row.name);
      Arena arena;
      const QTensor q = quantize(tensor, nvfp4(), {}, arena);
      EXPECT_EQ(q.tensor_scale, 1.0f / 672);
      EXPECT_EQ(q.scales.data<std::uint8_t>()[0], row.scale);
      for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(q.codes.data<std::uint8_t>()[i], row.bytes[i]) << i;
    }
  }
  Arena arena;
  const QTensor q = quantise(ramp, 1, nvfp4(), arena);
  double error = 0;
  for (std::int64_t i = 0; i < 16; ++i) {
    error +=
        std::pow(static_cast<double>(q.value_at(0, i)) - static_cast<double>(ramp[static_cast<std::size_t>(i)]), 2);
  }
  EXPECT_NEAR(error, 0.888889, 1e-5);
}

TEST(Nvfp4, AScaleThatUnderflowsMakesTheBlockZeroOrStandsIn) {
  std::vector<float> x(48, 0.0f);
  x[0] = 4;
  x[16] = 1e-4f;
  x[32] = 1e-6f;
  Arena arena;
  const QTensor q = quantise(x, 1, nvfp4(), arena);
  EXPECT_EQ(q.scales.data<std::uint8_t>()[1], 0x06);
  EXPECT_EQ(q.scales.data<std::uint8_t>()[2], 0);
  EXPECT_EQ(q.value_at(0, 32), 0.0f);
  for (const auto& [stand_in, code] : {std::pair{1.0, 0x38}, std::pair{0x1p-9, 0x01}}) {
    Nvfp4Scale scale;
    scale.zero_scale = stand_in;
    EXPECT_EQ(quantise(x, 1, nvfp4(Rounding::NearestEven, scale), arena).scales.data<std::uint8_t>()[2], code);
  }
}

TEST(Nvfp4, AnAllZeroTensorHasATensorScaleOfOne) {
  Arena arena;
  const std::vector<float> x(64, 0.0f);
  const QTensor q = quantise(x, 2, nvfp4(), arena);
  EXPECT_EQ(q.tensor_scale, 1.0f);
  EXPECT_EQ(values_of(q), x);
}

TEST(Nvfp4, SixteenSeventeenthsKeepARoundedScaleFromClipping) {
  // The outlier of block 1 has an ideal scale of 16.9 under either val_max; E4M3 has 16 and 18.
  std::vector<float> x;
  constexpr std::int64_t kRows = 4000;
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (int i = 0; i < 32; ++i) x.push_back(i == 0 ? 448.0f : i == 16 ? 16.9f : 0.0f);
  }
  const auto mean = [&](double val_max) {
    Arena arena;
    const QTensor q = quantise(x, kRows, nvfp4(Rounding::Stochastic, {val_max, 448, 0, 0, {}}), arena);
    EXPECT_EQ(q.scales.data<std::uint8_t>()[1], 0x58);  // 16
    double sum = 0;
    for (std::int64_t r = 0; r < kRows; ++r) sum += static_cast<double>(q.value_at(r, 16));
    return sum / kRows;
  };
  EXPECT_NEAR(mean(6), 16, 1e-4);
  EXPECT_NEAR(mean(kUnbiasedMax), 16.9, 0.03);  // a step is 5.7, up with probability .98: the mean's deviation is .012
}

TEST(Nvfp4, OuterScalesOfAStretchAreTheTensorScalesOfItAlone) {
  const std::vector<float> x = reference::gaussian(5 * 320, 17);
  Nvfp4Scale scale;
  scale.outer = 128;
  scale.zero_scale = 0x1p-9;
  Arena arena;
  const QTensor q = quantise(x, 5, nvfp4(Rounding::NearestEven, scale), arena);
  EXPECT_EQ(q.tensor_scale, 1.0f);
  ASSERT_EQ(q.outer_scales.cols(), 3);
  scale.outer = 0;
  for (std::int64_t r = 0; r < 5; ++r) {
    for (std::int64_t c0 = 0; c0 < 320; c0 += 128) {
      const std::int64_t c1 = std::min<std::int64_t>(320, c0 + 128);
      const std::vector<float> stretch(x.begin() + r * 320 + c0, x.begin() + r * 320 + c1);
      const QTensor alone = quantise(stretch, 1, nvfp4(Rounding::NearestEven, scale), arena);
      EXPECT_EQ(q.outer_scales.data<float>()[r * 3 + c0 / 128], alone.tensor_scale);
      for (std::int64_t c = c0; c < c1; ++c) EXPECT_EQ(q.value_at(r, c), alone.value_at(0, c - c0));
    }
  }
}

/// 4.75 bits a value: four, and for 16 values 8, for 128 values 32.
TEST(Nvfp4, ADoubleBlockTakesFourAndThreeQuarterBits) {
  Nvfp4Scale scale;
  scale.outer = 128;
  Arena arena;
  const std::vector<float> x(64 * 256, 1.0f);
  EXPECT_EQ(
      8.0 * static_cast<double>(stored_bytes(quantise(x, 64, nvfp4(Rounding::NearestEven, scale), arena))) / (64 * 256),
      4.75);
}

struct FourSix {
  const char* name;
  std::vector<float> block;
  Rounding rounding;
  bool four;
  double error6;
  double error4;
};

TEST(FourOverSix, BlocksTakeTheTabledScale) {
  std::vector<float> fives(16, 5.0f);
  fives[0] = 6;
  std::vector<float> on_grid = {6, 4, 3, 2, 1.5f, 1, .5f, 0};
  on_grid.insert(on_grid.end(), on_grid.begin(), on_grid.begin() + 8);
  std::vector<float> ramp(16);
  for (std::size_t i = 0; i < 16; ++i) ramp[i] = -4 + 0.5f * static_cast<float>(i);
  const FourSix rows[] = {
      {"fives", fives, Rounding::NearestEven, true, 15, 3.75},
      {"fives, ties away", fives, Rounding::NearestAway, true, 15, 3.75},
      {"on the grid", on_grid, Rounding::NearestEven, false, 0, .875},
      {"mixed",
       {6, 5.2f, -4.6f, 3.3f, -2.7f, 2.2f, 1.8f, -1.4f, 1.1f, .8f, -.6f, .4f, .3f, -.2f, .1f, 0},
       Rounding::NearestEven,
       true,
       1.43,
       1.1925},
      {"ramp", ramp, Rounding::NearestEven, false, .888889, 1.0},
  };
  for (const FourSix& row : rows) {
    SCOPED_TRACE(row.name);
    Arena arena;
    const auto error = [&](const QTensor& q) {
      double sum = 0;
      for (std::int64_t i = 0; i < 16; ++i) {
        sum += std::pow(
            static_cast<double>(q.value_at(0, i)) - static_cast<double>(row.block[static_cast<std::size_t>(i)]), 2);
      }
      return sum;
    };
    const QTensor six = quantise(row.block, 1, nvfp4(row.rounding, {6, 256, 1, 0, Selection::None}), arena);
    const QTensor chosen = quantise(row.block, 1, nvfp4(row.rounding, four_six(Selection::Mse)), arena);
    EXPECT_NEAR(error(six), row.error6, 1e-4);
    EXPECT_NEAR(error(chosen), row.four ? row.error4 : row.error6, 1e-4);
    // amax is the tensor's: 256 under six, 384 under four.
    EXPECT_EQ(six.scales.data<std::uint8_t>()[0], 0x78);
    EXPECT_EQ(chosen.scales.data<std::uint8_t>()[0], row.four ? 0x7C : 0x78);
  }
}

TEST(FourOverSix, TheMixedBlockHasTheTabledElementsUnderFour) {
  const std::vector<float> x = {6,    5.2f, -4.6f, 3.3f, -2.7f, 2.2f, 1.8f, -1.4f,
                                1.1f, .8f,  -.6f,  .4f,  .3f,   -.2f, .1f,  0};
  Arena arena;
  EXPECT_EQ(elements_of(quantise(x, 1, nvfp4(Rounding::NearestEven, four_six(Selection::Mse)), arena)),
            (std::vector<float>{4, 3, -3, 2, -2, 1.5f, 1, -1, .5f, .5f, -.5f, .5f, 0, -0.0f, 0, 0}));
}

TEST(FourOverSix, ATileTakesOneScaleByTheErrorsOfAllItsRows) {
  // One row alone would take four, the other fifteen take six.
  std::vector<float> x;
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 16; ++c) x.push_back(c == 0 ? 6.0f : r == 0 ? 5.0f : static_cast<float>(1 + c % 4));
  }
  const std::vector<float> first(x.begin(), x.begin() + 16);
  Arena arena;
  const QTensor row = quantise(first, 1, nvfp4(Rounding::NearestEven, four_six(Selection::Mse)), arena);
  EXPECT_EQ(row.scales.data<std::uint8_t>()[0], 0x7C);
  const QTensor tile = quantise(x, 16, nvfp4_tiles(four_six(Selection::Mse)), arena);
  ASSERT_EQ(tile.scales.numel(), 1);
  EXPECT_EQ(tile.scales.data<std::uint8_t>()[0], 0x78);
}

TEST(FourOverSix, NeverMakesTheErrorItSelectsByLarger) {
  const std::vector<float> x = reference::gaussian(32 * 256, 5);
  const auto mse = [&](const Nvfp4Scale& scale) {
    return quality_of(x, 32, nvfp4(Rounding::NearestEven, scale)).noise;
  };
  EXPECT_LT(mse(four_six(Selection::Mse)), mse({6, 256, 0, 0, Selection::None}));
  EXPECT_LE(mse(four_six(Selection::Mse)), mse(four_six(Selection::Mae)));
  EXPECT_LE(mse(four_six(Selection::Mse)), mse(four_six(Selection::MaxAbs)));
}

}  // namespace
}  // namespace nibble
