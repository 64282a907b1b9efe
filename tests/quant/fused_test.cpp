// The fused residual: codes within the bounds as with every other residual, what lies beyond them in the same elements.
#include <bit>
#include <limits>

#include "nibble/quant/dge.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using enum ElementFormat;
using enum ScaleRule;

bool is_beyond(const reference::Result& want, std::size_t i) {
  return reference::as_bits(want.y[i]) != reference::as_bits(want.clamped[i]);
}

/// The E4M3 code with the value of an E2M1 code.
int widened(int code) {
  const double value = reference::e2m1_grid()[static_cast<std::size_t>(code & 7)];
  return reference::fp8(static_cast<float>(value), true) | (code & 8) << 4;
}

void expect_fused(const QTensor& q, const reference::Result& want, const QuantSpec& spec) {
  ASSERT_EQ(q.element, E4M3);
  ASSERT_EQ(q.granularity, spec.granularity);
  ASSERT_EQ(q.scale_format, ScaleFormat::F32);
  ASSERT_EQ(q.tensor_scale, 1.0f);
  ASSERT_EQ(q.hadamard, spec.hadamard);
  ASSERT_FALSE(q.residual.defined());
  ASSERT_FALSE(q.mask.defined());
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const auto i = static_cast<std::size_t>(r * q.cols + c);
      const float s = want.block_scale[i];
      const int code = is_beyond(want, i) ? reference::fp8(want.y[i] * (1.0f / s), true) : widened(want.codes[i]);
      ASSERT_EQ(q.scale_at(r, c), s) << r << " " << c;
      ASSERT_EQ(reference::code_at(q, r, c), code) << r << " " << c << " y " << want.y[i] << " of " << want.clamped[i];
    }
  }
}

TEST(FusedResidual, HoldsTheCodesWithinTheBoundsAndRoundsWhatLiesBeyond) {
  std::uint64_t seed = 900;
  int specs = 0;
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{48, 80}, {130, 37}, {1, 129}, {64, 1}}) {
    for (Case c : cases()) {
      const bool outside =
          c.spec.granularity == Granularity::per_row() || c.spec.granularity == Granularity::per_tensor();
      const bool absmax = c.spec.scale == Absmax || c.spec.scale == AbsmaxPow2;
      if (c.spec.element != E2M1 || !outside || !absmax || c.spec.trust_mask) continue;
      for (const bool per_row : {true, false}) {
        for (const bool transposed : {false, true}) {
          for (const std::int64_t group : {0, 16}) {
            if (group > 0 && (transposed ? rows : cols) % group != 0) continue;
            c.spec.clamp = {++seed % 3 == 0 ? 0.99 : 0.9, per_row, ResidualMode::Fused};
            c.spec.transposed = transposed;
            c.spec.hadamard.group = group;
            const DType dtype = seed % 2 == 0 ? DType::F32 : DType::BF16;
            SCOPED_TRACE(testing::Message() << c.name << " [" << rows << ", " << cols << "], seed " << seed);
            std::vector<float> values = awkward_values(rows * cols, seed);
            const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
            const CaseContext given = case_context(c, x, seed);
            Arena arena;
            expect_fused(quantize(x, c.spec, given.context, arena),
                         reference::quantize(values, rows, cols, c.spec, given.context), c.spec);
            if (HasFatalFailure()) return;
            ++specs;
          }
        }
      }
    }
  }
  EXPECT_GT(specs, 200);
}

TEST(FusedResidual, CodesScalesAndBoundsAreThoseOfTheSparseOne) {
  std::vector<float> values = awkward_values(64 * 300, 5);
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const OwnedTensor x = reference::make_tensor(dtype, 64, 300, values);
    Arena arena;
    QuantSpec spec = with_clamp(quantiser(E2M1, Granularity::per_row(), Absmax, Rounding::NearestUp), 0.99, true,
                                ResidualMode::Sparse);
    const QTensor sparse = quantize(x, spec, {}, arena);
    spec.clamp.residual = ResidualMode::Fused;
    const QTensor fused = quantize(x, spec, {}, arena);
    const CsrMatrix& residual = sparse.residual;
    int beyond = 0;
    for (std::int64_t r = 0; r < 64; ++r) {
      std::int32_t entry = residual.row_begin.data<std::int32_t>()[r];
      const std::int32_t end = residual.row_begin.data<std::int32_t>()[r + 1];
      for (std::int64_t c = 0; c < 300; ++c) {
        if (entry < end && residual.col.data<std::int32_t>()[entry] == c) {
          ++entry;
          ++beyond;
        } else {
          ASSERT_EQ(fused.value_at(r, c), sparse.value_at(r, c)) << r << " " << c;
        }
      }
    }
    EXPECT_GT(beyond, 64 * 4);
  }
}

/// The bound that ResidualMode::Fused states, with room for the three roundings in F32.
double stated_bound(double y, double s) { return std::max(std::abs(y) / 16, s / 1024) * (1 + 0x1p-20); }

TEST(FusedResidual, AnOutlierIsWithinHalfAUnitOfE4m3sLastPlace) {
  std::mt19937_64 engine(77);
  for (const ScaleRule rule : {Absmax, AbsmaxPow2}) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      constexpr std::int64_t kRows = 40;
      constexpr std::int64_t kCols = 1000;
      std::vector<float> values = reference::gaussian(kRows * kCols, 78);
      // Outliers up to forty times the bound, and rows of one sign with a lower bound far from zero.
      for (std::int64_t i = 0; i < kRows * kCols; ++i) {
        float& v = values[static_cast<std::size_t>(i)];
        if (engine() % 100 == 0) v *= std::exp2(static_cast<float>(engine() % 5000) / 1000.0f);
        if (i / kCols % 4 == 3) v = engine() % 90 == 0 ? 1e-4f * std::abs(v) : 1 + std::abs(v);
      }
      const OwnedTensor x = reference::make_tensor(dtype, kRows, kCols, values);
      const QuantSpec spec = with_clamp(quantiser(E2M1, Granularity::per_row(), rule), 0.98, true, ResidualMode::Fused);
      Arena arena;
      const QTensor q = quantize(x, spec, {}, arena);
      const reference::Result want = reference::quantize(values, kRows, kCols, spec, {});
      double worst = 0;
      int beyond = 0;
      int small = 0;
      for (std::int64_t r = 0; r < kRows; ++r) {
        for (std::int64_t c = 0; c < kCols; ++c) {
          const auto i = static_cast<std::size_t>(r * kCols + c);
          if (!is_beyond(want, i)) continue;
          const auto y = static_cast<double>(want.y[i]);
          const auto s = static_cast<double>(want.block_scale[i]);
          if (std::abs(y) > 448 * s) continue;
          const double error = std::abs(static_cast<double>(q.value_at(r, c)) - y);
          ASSERT_LE(error, stated_bound(y, s)) << r << " " << c << " y " << y << " s " << s;
          worst = std::max(worst, error / std::abs(y) * (std::abs(y) < s / 64 ? 0 : 1));
          ++beyond;
          small += std::abs(y) < s / 64 ? 1 : 0;
        }
      }
      EXPECT_GT(beyond, kRows * 20);
      EXPECT_GT(small, 50) << "what lies below a lower bound, where E4M3 is subnormal";
      EXPECT_GT(worst, 0.95 / 17) << "half a unit in the last place is 1/17 of 1 1/16 at most";
    }
  }
}

TEST(FusedResidual, SaturatesAt448Scales) {
  std::vector<float> values(200, 1.5f);
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // s = 1.5 / 6 = 0.25, so 448 s = 112; 464 is half-way to what would be 480, and 400 a tie between 384 and 416.
  const std::pair<float, float> known[] = {{111.0f, 112.0f},  {112.0f, 112.0f}, {116.0f, 112.0f}, {-119.0f, -112.0f},
                                           {1e30f, 112.0f},   {-inf, -112.0f},  {inf, 112.0f},    {3.0f, 3.0f},
                                           {-100.0f, -96.0f}, {1.75f, 1.75f}};
  for (std::size_t i = 0; i < std::size(known); ++i) values[7 * i] = known[i].first;
  values[150] = nan;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const bool per_row : {true, false}) {
      const OwnedTensor x = reference::make_tensor(dtype, 1, 200, values);
      Arena arena;
      const QTensor q = quantize(
          x, with_clamp(quantiser(E2M1, Granularity::per_row(), Absmax), 0.9, per_row, ResidualMode::Fused), {}, arena);
      ASSERT_EQ(q.scale_at(0, 0), 0.25f);
      for (std::size_t i = 0; i < std::size(known); ++i) {
        EXPECT_EQ(q.value_at(0, static_cast<std::int64_t>(7 * i)), known[i].second) << known[i].first;
      }
      EXPECT_EQ(reference::code_at(q, 0, 150), 0x7F);
      EXPECT_EQ(q.value_at(0, 1), 1.5f);
    }
  }
}

TEST(FusedResidual, OfARowOfZerosLiesUnderTheScaleOne) {
  std::vector<float> values(100, 0.0f);
  values[3] = 5.0f;
  values[4] = -0.02f;
  values[5] = 1e-4f;
  Arena arena;
  for (const ScaleRule rule : {Absmax, AbsmaxPow2}) {
    const QTensor q =
        quantize(Tensor::of(values.data(), {1, 100}),
                 with_clamp(quantiser(E2M1, Granularity::per_row(), rule), 0.95, true, ResidualMode::Fused), {}, arena);
    EXPECT_EQ(q.scale_at(0, 0), 1.0f);
    EXPECT_EQ(q.value_at(0, 3), 5.0f);
    EXPECT_EQ(q.value_at(0, 4), -0.01953125f);
    EXPECT_EQ(q.value_at(0, 5), 0.0f);
    EXPECT_EQ(q.value_at(0, 6), 0.0f);
  }
}

TEST(FusedResidual, AnEmptyMatrixAndOneWithoutOutliers) {
  Arena arena;
  QuantSpec spec = with_clamp(quantiser(E2M1, Granularity::per_row(), Absmax), 0.99, true, ResidualMode::Fused);
  const OwnedTensor none(DType::F32, {0, 32});
  const QTensor empty = quantize(none, spec, {}, arena);
  EXPECT_EQ(empty.element, E4M3);
  EXPECT_EQ(empty.rows, 0);
  EXPECT_EQ(empty.cols, 32);
  std::vector<float> values = awkward_values(8 * 33, 4);
  const Tensor x = Tensor::of(values.data(), {8, 33});
  spec.clamp.alpha = 1;
  const QTensor fused = quantize(x, spec, {}, arena);
  spec.clamp = {};
  const QTensor plain = quantize(x, spec, {}, arena);
  for (std::int64_t r = 0; r < 8; ++r) {
    for (std::int64_t c = 0; c < 33; ++c) ASSERT_EQ(fused.value_at(r, c), plain.value_at(r, c)) << r << " " << c;
  }
}

TEST(FusedResidual, KeepsTheScalesThatDgeDividesBy) {
  std::vector<float> w = awkward_values(16 * 50, 9);
  const Tensor weight = Tensor::of(w.data(), {16, 50});
  QuantSpec spec = with_clamp(quantiser(E2M1, Granularity::per_row(), Absmax), 0.9, true, ResidualMode::None);
  Arena arena;
  const QTensor dropped = quantize(weight, spec, {}, arena);
  spec.clamp.residual = ResidualMode::Fused;
  const QTensor fused = quantize(weight, spec, {}, arena);
  EXPECT_EQ(fused.element_granularity, spec.granularity);
  std::vector<float> a(w.size(), 1.0f);
  std::vector<float> b(w.size(), 1.0f);
  dge_apply(Tensor::of(a.data(), {16, 50}), weight, dropped, spec, 5, 3);
  dge_apply(Tensor::of(b.data(), {16, 50}), weight, fused, spec, 5, 3);
  EXPECT_EQ(a, b);
}

TEST(FusedResidual, CountsAsClampedAndBringsTheSignalBack) {
  std::vector<float> values = reference::gaussian(100 * 500, 2);
  for (std::size_t i = 0; i < values.size(); i += 97) values[i] *= 30;
  const Tensor x = Tensor::of(values.data(), {100, 500});
  Arena arena;
  QuantQuality of[3];
  const ResidualMode modes[] = {ResidualMode::None, ResidualMode::Fused, ResidualMode::Sparse};
  for (int i = 0; i < 3; ++i) {
    const QuantSpec spec = with_clamp(quantiser(E2M1, Granularity::per_row(), Absmax), 0.97, true, modes[i]);
    of[i] = measure_quality(x, quantize(x, spec, {}, arena), spec, {}, arena);
  }
  EXPECT_EQ(of[1].clamped, of[2].clamped);
  EXPECT_GT(of[1].clamped, 100 * 25);
  EXPECT_EQ(of[1].clipped, 0);
  EXPECT_EQ(of[1].blocks, 100);
  EXPECT_LT(of[0].snr_db(), 5);
  EXPECT_GT(of[1].snr_db(), 20);
  EXPECT_GE(of[2].snr_db(), of[1].snr_db());
}

}  // namespace
}  // namespace nibble
