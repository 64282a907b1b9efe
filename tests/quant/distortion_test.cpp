// The table of errors on standard normal numbers, each row held in a window on both sides: a quantiser can neither get
// worse nor better unnoticed.
#include "tests/quant/measure.h"

namespace nibble {
namespace {

constexpr double kNone = -100;  ///< no figure published

struct Row {
  const char* name;
  QuantSpec spec;
  double mse;
  double misalignment;
};

Nvfp4Scale overridden(double factor) { return {6 / factor, 448, 0, 0, Selection::None}; }

TEST(Distortion, StandardNormalNumbersHaveTheTabledErrors) {
  const Rounding even = Rounding::NearestEven;
  const Rounding sr = Rounding::Stochastic;
  const Row table[] = {
      {"MXFP4 OcpFloor", mxfp4(ScaleRule::OcpFloor), 1.322e-2, 1.96e-2},
      {"MXFP4 Ceil6", mxfp4(ScaleRule::Ceil6), 1.331e-2, 1.00e-2},
      {"MXFP4 Nearest6", mxfp4(ScaleRule::Nearest6), 1.475e-2, 2.73e-2},
      {"MXFP4 RangeMatch34", mxfp4(ScaleRule::RangeMatch34), 1.385e-2, 8.99e-3},
      {"MXFP4 OcpFloor SR", mxfp4(ScaleRule::OcpFloor, sr), 2.516e-2, 1.03e-2},
      {"MXFP4 RangeMatch34 SR", mxfp4(ScaleRule::RangeMatch34, sr), 2.822e-2, 0},
      {"MXFP4 Ceil6 SR", mxfp4(ScaleRule::Ceil6, sr), 2.709e-2, 0},
      {"NVFP4 1x16", nvfp4(), 9.04e-3, 4.5e-3},
      {"NVFP4 1x16, .988125", nvfp4(even, overridden(.988125)), 8.98e-3, 7.8e-3},
      {"NVFP4 1x16, 17/16", nvfp4(even, overridden(17.0 / 16)), 1.065e-2, -1.13e-2},
      {"NVFP4 1x16, .92", nvfp4(even, overridden(.92)), 1.024e-2, 2.9e-2},
      {"NVFP4 1x16 SR", nvfp4(sr), 1.888e-2, 3.3e-3},
      {"NVFP4 1x16 SR, 17/16", nvfp4(sr, overridden(17.0 / 16)), 2.352e-2, 0},
      {"NVFP4 1x16 4/6 MSE", nvfp4(even, four_six(Selection::Mse)), 7.56e-3, 3.3e-3},
      {"NVFP4 1x16 4/6 MAE", nvfp4(even, four_six(Selection::Mae)), 7.80e-3, kNone},
      {"NVFP4 1x16 4/6 max", nvfp4(even, four_six(Selection::MaxAbs)), 8.00e-3, kNone},
      {"NVFP4 16x16", nvfp4_tiles(), 1.239e-2, kNone},
      {"NVFP4 16x16 4/6", nvfp4_tiles(four_six(Selection::Mse)), 1.24e-2, kNone},
      {"MS-EDEN 16", eden(16), 9.32e-3, 5.7e-5},
      {"MS-EDEN 32", eden(32), 9.69e-3, kNone},
      {"MS-EDEN 128", eden(128), 9.72e-3, 5.8e-4},
      {"MS-EDEN 256", eden(256), 9.67e-3, kNone},
      {"rows, exact absmax", quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax), 1.42e-2, kNone},
      {"rows, pow2 absmax", quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::AbsmaxPow2), 2.32e-2,
       kNone},
  };
  for (const Row& row : table) {
    SCOPED_TRACE(row.name);
    const QuantQuality quality = gaussian_quality(row.spec);
    expect_within(quality.relative_mse(), row.mse, 0.02, "relative MSE");
    // With a million numbers the misalignment of stochastic rounding spreads by 1.6e-4.
    if (row.misalignment != kNone) {
      EXPECT_NEAR(misalignment(quality), row.misalignment, 0.03 * std::abs(row.misalignment) + 4e-4);
    }
  }
}

TEST(Distortion, ATransformLeavesGaussianNumbersTheirErrors) {
  QuantSpec spec = eden(128);
  spec.hadamard = {128, Hadamard::Signs::Call, false};
  expect_within(gaussian_quality(spec).relative_mse(), 9.72e-3, 0.02, "MS-EDEN 128, rotated");
}

TEST(Distortion, MxErrorsAveragedOverAnOctaveOfScaleAreTheTabledOnes) {
  const auto mse = [](const QuantQuality& q) { return q.relative_mse(); };
  expect_within(octave_mean(mxfp4(ScaleRule::OcpFloor), mse), 1.335e-2, 0.02, "OcpFloor");
  expect_within(octave_mean(mxfp4(ScaleRule::Ceil6), mse), 1.366e-2, 0.02, "Ceil6");
  expect_within(octave_mean(mxfp4(ScaleRule::RangeMatch34), mse), 1.366e-2, 0.02, "RangeMatch34");
  expect_within(octave_mean(mxfp4(ScaleRule::RangeMatch34), [](const QuantQuality& q) { return misalignment(q); }),
                9.4e-3, 0.03, "RangeMatch34, misalignment");
}

TEST(Distortion, TheBestFixedScaleOfE2m1HasTheTabledError) {
  // One block over everything whose largest value is six of these scales; the rest of x beyond it saturates.
  constexpr double kScale = .48707948;
  const std::vector<float>& x = gaussian_million();
  std::vector<float> bounded = x;
  for (float& v : bounded) v = std::clamp(v, static_cast<float>(-6 * kScale), static_cast<float>(6 * kScale));
  Arena arena;
  const std::vector<float> values = values_of(
      quantise(bounded, 256, quantiser(ElementFormat::E2M1, Granularity::per_tensor(), ScaleRule::Absmax), arena));
  double noise = 0, signal = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    signal += v * v;
    noise += (v - static_cast<double>(values[i])) * (v - static_cast<double>(values[i]));
  }
  expect_within(noise / signal, 1.2685e-2, 0.01, "relative MSE");
}

TEST(Distortion, QuantisersAreOrderedAsPublished) {
  const auto mse = [](const QuantSpec& spec) { return gaussian_quality(spec).relative_mse(); };
  const double four = mse(nvfp4(Rounding::NearestEven, four_six(Selection::Mse)));
  const double rtn = mse(nvfp4());
  const double corrected = mse(eden(128));
  const double tiles = mse(nvfp4_tiles());
  const double mx = mse(mxfp4(ScaleRule::OcpFloor));
  const double nv_sr = mse(nvfp4(Rounding::Stochastic, overridden(17.0 / 16)));
  const double mx_sr = mse(mxfp4(ScaleRule::RangeMatch34, Rounding::Stochastic));
  EXPECT_LT(four, rtn);
  EXPECT_LT(rtn, corrected);
  EXPECT_LT(corrected, tiles);
  EXPECT_NEAR(tiles / mx, 1, 0.1);
  EXPECT_LT(std::max(tiles, mx), nv_sr);
  EXPECT_LT(nv_sr, mx_sr);
}

TEST(Distortion, BitsOfTheKernelTestsAreReached) {
  const auto bits = [](const QuantSpec& spec) { return -0.5 * std::log2(gaussian_quality(spec).relative_mse()); };
  EXPECT_GT(bits(nvfp4()), 3.38);
  EXPECT_GT(bits(nvfp4(Rounding::NearestEven, four_six(Selection::Mse))), 3.52);
  EXPECT_GT(bits(eden(128)), 3.32);
  EXPECT_GT(bits(eden(16)), 3.37);
}

}  // namespace
}  // namespace nibble
