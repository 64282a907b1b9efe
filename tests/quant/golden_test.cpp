// Figures that papers and released code publish, or that follow from the formats alone.
#include <gtest/gtest.h>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

QuantSpec e2m1(Granularity granularity, ScaleRule scale, Rounding rounding = Rounding::NearestEven) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = granularity;
  spec.scale = scale;
  spec.rounding = rounding;
  return spec;
}

/// Wang et al.'s released code: BF16 arithmetic, power-of-two scales, the look-up kernel's ties.
QuantSpec released(Granularity granularity) {
  QuantSpec spec = e2m1(granularity, ScaleRule::AbsmaxPow2, Rounding::NearestUp);
  spec.bf16_input = true;
  return spec;
}

std::vector<float> values_of(const QTensor& q) {
  std::vector<float> values(static_cast<std::size_t>(q.rows * q.cols));
  dequantize(q, Tensor::of(values.data(), {q.rows, q.cols}));
  return values;
}

QTensor quantize_values(std::vector<float> x, std::int64_t rows, std::int64_t cols, const QuantSpec& spec,
                        Arena& arena) {
  return quantize(Tensor::of(x.data(), {rows, cols}), spec, {}, arena);
}

TEST(GoldenWang, PerTensorVectorOfTheReleasedTest) {
  Arena arena;
  const QTensor q = quantize_values({.001f, .048f, .0997f, .1503f, .2002f, .2497f, .2974f, .30699f, .4001f}, 1, 9,
                                    released(Granularity::per_tensor()), arena);
  EXPECT_EQ(q.scale_at(0, 0), 1.0f / 8);
  EXPECT_EQ(values_of(q), (std::vector<float>{0, .0625f, .125f, .125f, .1875f, .25f, .25f, .25f, .375f}));
}

const std::vector<float> kWangMatrix = {-.01f,   .48f,   -9.67f,  1.623f, -2.222f, 24.67f,
                                        -2.874f, 3.699f, -34.57f, .85f,   -1.343f, 18.88f};
const std::vector<float> kWangQuantised = {0, .5f, -8, 1.5f, -2, 24, -3, 4, -32, .75f, -1.5f, 16};

std::vector<float> transpose(const std::vector<float>& x, std::size_t rows, std::size_t cols) {
  std::vector<float> t(x.size());
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) t[c * rows + r] = x[r * cols + c];
  }
  return t;
}

TEST(GoldenWang, ChannelWiseMatrixOfTheReleasedTest) {
  Arena arena;
  const QTensor q = quantize_values(kWangMatrix, 4, 3, released(Granularity::per_column()), arena);
  EXPECT_EQ(values_of(q), kWangQuantised);
  EXPECT_EQ(1 / q.scale_at(0, 0), 2.0f);
  EXPECT_EQ(1 / q.scale_at(0, 1), 1.0f);
  EXPECT_EQ(1 / q.scale_at(0, 2), 1.0f / 8);
}

TEST(GoldenWang, TokenWiseOnTheTransposeGivesTheTranspose) {
  Arena arena;
  const QTensor q = quantize_values(transpose(kWangMatrix, 4, 3), 3, 4, released(Granularity::per_row()), arena);
  EXPECT_EQ(values_of(q), transpose(kWangQuantised, 4, 3));
}

TEST(GoldenFormat, EachTieRuleTreatsTheMidpointsAsItsTableSays) {
  // A 6 in front makes the scale one.
  const std::vector<float> midpoints = {6,     .25f,  .75f,   1.25f,  1.75f, 2.5f,  3.5f, 5,
                                        -.25f, -.75f, -1.25f, -1.75f, -2.5f, -3.5f, -5};
  const std::vector<std::pair<Rounding, std::vector<float>>> table = {
      {Rounding::NearestEven, {6, 0, 1, 1, 2, 2, 4, 4, -0.0f, -1, -1, -2, -2, -4, -4}},
      {Rounding::NearestUp, {6, .5f, 1, 1.5f, 2, 3, 4, 6, 0, -.5f, -1, -1.5f, -2, -3, -4}},
      {Rounding::NearestZero, {6, 0, .5f, 1, 1.5f, 2, 3, 4, -0.0f, -.5f, -1, -1.5f, -2, -3, -4}},
      {Rounding::NearestAway, {6, .5f, 1, 1.5f, 2, 3, 4, 6, -.5f, -1, -1.5f, -2, -3, -4, -6}},
  };
  for (const auto& [rounding, want] : table) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      SCOPED_TRACE(testing::Message() << "rounding " << static_cast<int>(rounding) << " " << dtype_name(dtype));
      std::vector<float> x = midpoints;
      const OwnedTensor tensor = reference::make_tensor(dtype, 1, 15, x);
      Arena arena;
      const QTensor q = quantize(tensor, e2m1(Granularity::per_row(), ScaleRule::Absmax, rounding), {}, arena);
      const std::vector<float> got = values_of(q);
      for (std::size_t i = 0; i < want.size(); ++i) {
        EXPECT_EQ(reference::as_bits(got[i]), reference::as_bits(want[i])) << midpoints[i];
      }
    }
  }
}

TEST(GoldenFormat, TheEvenElementIsTheLowNibble) {
  Arena arena;
  const QTensor q = quantize_values({.5f, -6, 1.5f, 0}, 1, 4, e2m1(Granularity::per_row(), ScaleRule::Absmax), arena);
  EXPECT_EQ(q.codes.data<std::uint8_t>()[0], 0xF1);
  EXPECT_EQ(q.codes.data<std::uint8_t>()[1], 0x03);
}

TEST(GoldenFormat, AnOddLastNibbleIsZero) {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    std::vector<float> x = {1, 2, -6};
    const OwnedTensor tensor = reference::make_tensor(dtype, 1, 3, x);
    Arena arena;
    const QTensor q = quantize(tensor, e2m1(Granularity::per_row(), ScaleRule::Absmax), {}, arena);
    EXPECT_EQ(q.codes.data<std::uint8_t>()[1], 0x0F);
  }
}

float e2m1_value(int code) {
  const float magnitude = static_cast<float>(reference::e2m1_grid()[static_cast<std::size_t>(code & 7)]);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

TEST(GoldenFormat, AllCodesUnderAllE8M0ScalesComeBack) {
  std::vector<float> x;
  for (int e = -120; e <= 125; ++e) {
    for (int code = 0; code < 16; ++code) x.push_back(std::ldexp(e2m1_value(code), e));
  }
  for (const ScaleRule rule : {ScaleRule::OcpFloor, ScaleRule::Ceil6}) {
    Arena arena;
    const QTensor q = quantize_values(x, 246, 16, e2m1(Granularity::block(1, 16), rule), arena);
    EXPECT_EQ(values_of(q), x);
    for (std::int64_t r = 0; r < 246; ++r) {
      EXPECT_EQ(q.scales.data<std::uint8_t>()[r], r - 120 + 127);
      for (int code = 0; code < 16; ++code) EXPECT_EQ(reference::code_at(q, r, code), code);
    }
  }
}

TEST(GoldenFormat, AllCodesUnderAllE4M3ScalesComeBack) {
  std::vector<float> x;  // the scale 448 is among them, which makes the tensor scale one
  for (int scale = 1; scale <= 0x7E; ++scale) {
    for (int code = 0; code < 16; ++code) {
      x.push_back(e2m1_value(code) * static_cast<float>(reference::e4m3_magnitude(scale)));
    }
  }
  Arena arena;
  const QTensor q = quantize_values(x, 126, 16, e2m1(Granularity::block(1, 16), ScaleRule::Nvfp4), arena);
  EXPECT_EQ(q.tensor_scale, 1.0f);
  EXPECT_EQ(values_of(q), x);
  for (std::int64_t r = 0; r < 126; ++r) {
    EXPECT_EQ(q.scales.data<std::uint8_t>()[r], r + 1);
    for (int code = 0; code < 16; ++code) EXPECT_EQ(reference::code_at(q, r, code), code);
  }
}

TEST(GoldenFormat, Nvfp4LowersAScaleJustBelowSeventeenToSixteenAndClips) {
  // Tensor amax 6 * 448, so the tensor scale is one; the other block's ideal scale is 16.9.
  std::vector<float> x(32, 0.0f);
  x[0] = 2688.0f;
  x[16] = 6 * 16.9f;
  Arena arena;
  const QTensor q = quantize_values(x, 1, 32, e2m1(Granularity::block(1, 16), ScaleRule::Nvfp4), arena);
  EXPECT_EQ(q.scale_at(0, 16), 16.0f);
  EXPECT_EQ(q.value_at(0, 16), 96.0f);
}

// Errors on Gaussian numbers.

QuantQuality gaussian_quality(std::int64_t rows, std::int64_t cols, const QuantSpec& spec, float sigma = 1.0f) {
  std::vector<float> x = reference::gaussian(static_cast<std::size_t>(rows * cols), 20260, sigma);
  const Tensor tensor = Tensor::of(x.data(), {rows, cols});
  QuantizeContext context;
  context.random.seed = 99;
  Arena arena;
  return measure_quality(tensor, quantize(tensor, spec, context, arena), spec, context, arena);
}

void expect_near_share(double got, double want, double share, const char* what) {
  EXPECT_GT(got, want * (1 - share)) << what;
  EXPECT_LT(got, want * (1 + share)) << what;
}

struct GaussianRow {
  const char* name;
  ScaleRule scale;
  double alpha;
  ResidualMode residual;
  double mse;
  double snr;
  double cosine;  ///< 0: not published
};

TEST(GoldenWang, GaussianRowsOf4096HaveThePublishedErrors) {
  constexpr ScaleRule Absmax = ScaleRule::Absmax;
  constexpr ScaleRule AbsmaxPow2 = ScaleRule::AbsmaxPow2;
  constexpr ResidualMode None = ResidualMode::None;
  constexpr ResidualMode Sparse = ResidualMode::Sparse;
  const GaussianRow table[] = {
      {"exact absmax", Absmax, 0, None, .01419, 18.48, .99289},
      {"pow2 absmax", AbsmaxPow2, 0, None, .0232, 16.3, .9885},
      {"clamp .99", Absmax, .99, None, .01447, 18.40, .99279},
      {"clamp .99 + residual", Absmax, .99, Sparse, .01077, 19.68, .99462},
      {"clamp .99 pow2", AbsmaxPow2, .99, None, .0207, 16.85, .9900},
      {"clamp .99 pow2 + residual", AbsmaxPow2, .99, Sparse, .0122, 19.1, .9940},
      {"clamp .999 + residual", Absmax, .999, Sparse, .01258, 19.00, 0},
      {"clamp .97 + residual", Absmax, .97, Sparse, .00863, 20.64, 0},
  };
  for (const GaussianRow& row : table) {
    SCOPED_TRACE(row.name);
    QuantSpec spec = e2m1(Granularity::per_row(), row.scale, Rounding::NearestUp);
    spec.clamp = {row.alpha, true, row.residual};
    const QuantQuality quality = gaussian_quality(192, 4096, spec);
    expect_near_share(quality.relative_mse(), row.mse, 0.03, "relative MSE");
    EXPECT_NEAR(quality.snr_db(), row.snr, 0.15);
    if (row.cosine != 0) {
      EXPECT_NEAR(quality.cosine(), row.cosine, 4e-4);
    }
  }
}

TEST(GoldenWang, ClampWithResidualWinsManyDecibelsOnHeavyTails) {
  constexpr std::int64_t kRows = 16;
  constexpr std::int64_t kCols = 4096;
  std::vector<float> x = reference::gaussian(kRows * kCols, 8);
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (int i = 0; i < 4; ++i) x[static_cast<std::size_t>(r * kCols + 997 * i + r)] = i % 2 == 0 ? 50.0f : -50.0f;
  }
  const Tensor tensor = Tensor::of(x.data(), {kRows, kCols});
  const auto snr = [&](double alpha) {
    QuantSpec spec = e2m1(Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp);
    if (alpha > 0) spec.clamp = {alpha, true, ResidualMode::Sparse};
    Arena arena;
    return measure_quality(tensor, quantize(tensor, spec, {}, arena), spec, {}, arena).snr_db();
  };
  EXPECT_GT(snr(0.99), snr(0) + 10);
}

}  // namespace
}  // namespace nibble
