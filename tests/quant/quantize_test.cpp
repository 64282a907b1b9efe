// quantize against the reference quantiser, on every kind of block, rounding and awkward shape.
#include "nibble/quant/quantize.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

struct Folds {
  OwnedTensor rows;
  OwnedTensor cols;
};

Folds make_folds(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Folds folds{OwnedTensor(DType::F32, {rows}), OwnedTensor(DType::F32, {cols})};
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<float> uniform(0.1f, 3.0f);
  for (std::int64_t i = 0; i < rows; ++i) folds.rows.view().data<float>()[i] = uniform(engine);
  for (std::int64_t i = 0; i < cols; ++i) folds.cols.view().data<float>()[i] = uniform(engine);
  return folds;
}

class QuantizeShapes : public testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

TEST_P(QuantizeShapes, EverySpecGivesTheCodesOfTheReference) {
  const auto [rows, cols] = GetParam();
  std::uint64_t seed = 1000 * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(cols);
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      SCOPED_TRACE(testing::Message() << c.name << (c.spec.bf16_input ? " bf16_input" : "") << ", " << dtype_name(dtype)
                                      << " [" << rows << ", " << cols << "], seed " << ++seed);
      std::vector<float> values = awkward_values(rows * cols, seed);
      const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
      const CaseContext given = case_context(c, x, seed);
      const QuantizeContext& context = given.context;
      Arena arena;
      const QTensor q = quantize(x, c.spec, context, arena);
      const reference::Result want = reference::quantize(values, rows, cols, c.spec, context);
      expect_same(q, want);
      if (c.spec.clamp.residual == ResidualMode::Sparse) expect_residual(q.residual, want);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(QuantizeShapes, FoldsAreMultipliedInBeforeAnythingElse) {
  const auto [rows, cols] = GetParam();
  std::uint64_t seed = 77000 + static_cast<std::uint64_t>(rows * cols);
  for (const Case& c : cases()) {
    if (c.spec.rounding == Rounding::Reference) continue;
    ++seed;
    const DType dtype = seed % 2 == 0 ? DType::F32 : DType::BF16;
    SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype) << " [" << rows << ", " << cols << "], seed "
                                    << seed);
    std::vector<float> values = awkward_values(rows * cols, seed);
    const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
    const Folds folds = make_folds(rows, cols, seed);
    QuantizeContext context;
    if (seed % 3 != 0) context.row_fold = folds.rows;
    if (seed % 3 != 1) context.col_fold = folds.cols;
    Arena arena;
    const QTensor q = quantize(x, c.spec, context, arena);
    const reference::Result want = reference::quantize(values, rows, cols, c.spec, context);
    expect_same(q, want);
    if (c.spec.clamp.residual == ResidualMode::Sparse) expect_residual(q.residual, want);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Awkward, QuantizeShapes,
                         testing::Values(std::pair{1, 1}, std::pair{1, 37}, std::pair{37, 1}, std::pair{3, 64},
                                         std::pair{17, 129}, std::pair{130, 31}, std::pair{33, 200}));

TEST(Quantize, LargeMatricesGiveTheCodesOfTheReference) {
  // More than one chunk of rows, and bands of blocks that cross chunks.
  constexpr std::int64_t kRows = 173;
  constexpr std::int64_t kCols = 640;
  for (const Case& c : cases()) {
    if (c.spec.bf16_input) continue;
    SCOPED_TRACE(c.name);
    std::vector<float> values = awkward_values(kRows * kCols, 5);
    const OwnedTensor x = reference::make_tensor(DType::BF16, kRows, kCols, values);
    const CaseContext given = case_context(c, x, 21);
    Arena arena;
    const QTensor q = quantize(x, c.spec, given.context, arena);
    const reference::Result want = reference::quantize(values, kRows, kCols, c.spec, given.context);
    expect_same(q, want);
    if (c.spec.clamp.residual == ResidualMode::Sparse) expect_residual(q.residual, want);
    if (HasFatalFailure()) return;
  }
}

TEST(Quantize, EveryBf16ValueRoundsAsItsFloatDoes) {
  // All finite BF16 magnitudes as rows of one binade each, under scales that put ties on and off the grid.
  for (const Rounding rounding :
       {Rounding::NearestEven, Rounding::NearestUp, Rounding::NearestZero, Rounding::NearestAway}) {
    for (const ScaleRule rule : {ScaleRule::Absmax, ScaleRule::AbsmaxPow2, ScaleRule::OcpFloor, ScaleRule::Ceil6}) {
      SCOPED_TRACE(testing::Message() << "rounding " << static_cast<int>(rounding) << " rule "
                                      << static_cast<int>(rule));
      constexpr std::int64_t kCols = 2 * 6 * 128;  // six binades of both signs
      std::vector<float> values;
      for (std::uint32_t top = 1; top <= 255; top += 2) {
        for (std::uint32_t below = 0; below < 6 * 128; ++below) {
          const std::uint32_t bits = top * 128 > below + 1 ? top * 128 - 1 - below : 0;
          values.push_back(reference::as_float(bits << 16));
          values.push_back(-values.back());
        }
      }
      const auto rows = static_cast<std::int64_t>(values.size()) / kCols;
      const OwnedTensor x = reference::make_tensor(DType::BF16, rows, kCols, values);
      const QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), rule, rounding);
      Arena arena;
      const QTensor q = quantize(x, spec, {}, arena);
      expect_same(q, reference::quantize(values, rows, kCols, spec, {}));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Quantize, ZeroSubnormalHugeAndInfiniteInputsNeverMakeNaN) {
  const float max = std::numeric_limits<float>::max();
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      for (const std::vector<float>& row : extreme_rows()) {
        std::vector<float> values = row;
        const bool finite_input = std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); });
        const OwnedTensor x = reference::make_tensor(dtype, 1, 5, values);
        SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype) << ", first value " << row[0]);
        // The largest float rounds to infinity in BF16, and to 2^128 under power-of-two scales.
        const bool finite = finite_input && row[0] != max;
        Arena arena;
        const CaseContext given = case_context(c, x, 9);
        const QuantizeContext& context = given.context;
        const QTensor q = quantize(x, c.spec, context, arena);
        for (std::int64_t i = 0; i < 5; ++i) {
          ASSERT_FALSE(std::isnan(q.value_at(0, i))) << i;
          if (finite) {
            ASSERT_TRUE(std::isfinite(q.value_at(0, i))) << i;
          }
          if (values[static_cast<std::size_t>(i)] == 0) {
            ASSERT_EQ(q.value_at(0, i), 0.0f) << i;
          }
        }
        if (has_scale(q.element)) {
          ASSERT_TRUE(std::isfinite(q.scale_at(0, 0)));
        }
        if (c.spec.clamp.enabled()) continue;
        expect_same(q, reference::quantize(values, 1, 5, c.spec, context));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Quantize, ABlockTooSmallForAFiniteReciprocalIsZeroUnderScaleOne) {
  for (const ScaleRule rule : {ScaleRule::Absmax, ScaleRule::AbsmaxPow2}) {
    for (const Rounding rounding : {Rounding::NearestUp, Rounding::Stochastic, Rounding::Stochastic8}) {
      std::vector<float> values = {1e-40f, -1e-40f, 0.0f, 5e-41f};
      const OwnedTensor x = reference::make_tensor(DType::F32, 1, 4, values);
      Arena arena;
      const QTensor q = quantize(x, quantiser(ElementFormat::E2M1, Granularity::per_row(), rule, rounding), {}, arena);
      EXPECT_EQ(q.scale_at(0, 0), 1.0f);
      for (std::int64_t c = 0; c < 4; ++c) EXPECT_EQ(q.value_at(0, c), 0.0f);
    }
  }
}

TEST(Quantize, NaNFollowsTheRuleOfTheFormat) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::F32, DType::BF16}) {
    OwnedTensor x(dtype, {1, 3});
    for (int i = 0; i < 3; ++i) {
      const float v = i == 0 ? nan : i == 1 ? -nan : 1.0f;
      if (dtype == DType::F32) {
        x.view().data<float>()[i] = v;
      } else {
        x.view().data<bf16>()[i] = bf16_encode(v);
      }
    }
    for (const Rounding rounding : {Rounding::NearestEven, Rounding::NearestUp, Rounding::NearestZero,
                                    Rounding::NearestAway, Rounding::Stochastic, Rounding::Stochastic8}) {
      Arena arena;
      const QTensor q =
          quantize(x, quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, rounding), {}, arena);
      EXPECT_EQ(reference::code_at(q, 0, 0), 7) << static_cast<int>(rounding);
      EXPECT_EQ(reference::code_at(q, 0, 1), 7) << static_cast<int>(rounding);
    }
    for (const ElementFormat element : {ElementFormat::E4M3, ElementFormat::E5M2}) {
      Arena arena;
      const QTensor q = quantize(x, quantiser(element, Granularity::per_row(), ScaleRule::Absmax), {}, arena);
      EXPECT_EQ(reference::code_at(q, 0, 0), 0x7F);
      EXPECT_EQ(reference::code_at(q, 0, 1), 0xFF);
    }
  }
}

TEST(Quantize, BitsDoNotDependOnTheNumberOfThreads) {
  std::vector<float> values = awkward_values(517 * 333, 11);
  const OwnedTensor x = reference::make_tensor(DType::BF16, 517, 333, values);
  const int before = omp_get_max_threads();
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const CaseContext given = case_context(c, x, 4);
    std::vector<std::vector<std::uint8_t>> seen;
    for (const int threads : {1, 2, 3}) {
      omp_set_num_threads(threads);
      Arena arena;
      const QTensor q = quantize(x, c.spec, given.context, arena);
      std::vector<std::uint8_t> bytes;
      const auto append = [&](const Tensor& t) {
        if (!t.defined()) return;
        const auto* p = static_cast<const std::uint8_t*>(t.raw());
        bytes.insert(bytes.end(), p, p + t.bytes());
      };
      append(q.codes);
      append(q.scales);
      append(q.outer_scales);
      append(q.mask);
      if (q.residual.defined()) {
        append(q.residual.row_begin);
        const auto* p = q.residual.col.data<std::int32_t>();
        const auto* v = q.residual.value.data<float>();
        for (std::int64_t i = 0; i < q.residual.nnz(); ++i) {
          bytes.push_back(static_cast<std::uint8_t>(p[i]));
          bytes.push_back(static_cast<std::uint8_t>(reference::as_bits(v[i])));
        }
      }
      seen.push_back(bytes);
    }
    omp_set_num_threads(before);
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_EQ(seen[0], seen[2]);
  }
}

TEST(Quantize, EmptyTensorsGiveEmptyResults) {
  for (const Case& c : cases()) {
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{0, 8}, {0, 0}}) {
      SCOPED_TRACE(c.name);
      const OwnedTensor x(DType::F32, {rows, cols});
      const CaseContext given = case_context(c, x, 1);
      Arena arena;
      const QTensor q = quantize(x, c.spec, given.context, arena);
      EXPECT_EQ(q.rows, 0);
      EXPECT_EQ(q.cols, cols);
      EXPECT_EQ(q.codes.numel(), 0);
      EXPECT_EQ(q.residual.nnz(), 0);
      const OwnedTensor out(DType::F32, {rows, cols});
      dequantize(q, out);
    }
  }
}

TEST(Quantize, FourDimensionalTensorsAreMatricesOfTheirInnermostDimension) {
  std::vector<float> values = awkward_values(2 * 3 * 8, 3);
  const OwnedTensor x = reference::make_tensor(DType::F32, 6, 8, values);
  const QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax);
  Arena arena;
  const QTensor q = quantize(x.view().reshape({2, 3, 8}), spec, {}, arena);
  expect_same(q, reference::quantize(values, 6, 8, spec, {}));
}

TEST(Quantize, RefusesSpecsThatSayNothingSensible) {
  const OwnedTensor x(DType::F32, {2, 4});
  Arena arena;
  const auto refuses = [&](const QuantSpec& spec) { EXPECT_THROW(quantize(x, spec, {}, arena), InternalError); };
  refuses(quantiser(ElementFormat::E4M3, Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp));
  refuses(quantiser(ElementFormat::E4M3, Granularity::per_row(), ScaleRule::Nvfp4));
  refuses(quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::None));
  refuses(quantiser(ElementFormat::BF16, Granularity::per_row(), ScaleRule::Absmax));
  QuantSpec carried = quantiser(ElementFormat::E4M3, Granularity::per_row(), ScaleRule::Absmax);
  carried.carrier = ElementFormat::E4M3;
  refuses(carried);
  refuses(with_clamp(quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax), 0.2, true,
                     ResidualMode::None));
  using enum ElementFormat;
  const Granularity row = Granularity::per_row();
  const Granularity nv = Granularity::block(1, 16);
  refuses(quantiser(Int4, row, ScaleRule::QuestFloor));
  refuses(quantiser(Int4, nv, ScaleRule::Nvfp4));
  refuses(quantiser(E2M1, row, ScaleRule::Sawb));
  refuses(quantiser(E3M0, row, ScaleRule::RangeMatch34));
  refuses(quantiser(Int4, row, ScaleRule::Absmax, Rounding::Stochastic8));
  refuses(quantiser(E3M0, row, ScaleRule::Absmax, Rounding::Reference));
  refuses(quantiser(E2M1, row, ScaleRule::Absmax, Rounding::Reference));  // no reference in the context
  refuses(quantiser(E2M1, row, ScaleRule::Absmax, Rounding::Eden));
  refuses(quantiser(E2M1, Granularity::block(1, 32), ScaleRule::Nvfp4, Rounding::Eden));
  refuses(eden_group(quantiser(E2M1, nv, ScaleRule::Nvfp4, Rounding::Eden), 24));
  refuses(nvfp4(quantiser(E2M1, nv, ScaleRule::Nvfp4, Rounding::Eden), {6, 256, 1, 0, Selection::Mse}));
  refuses(nvfp4(quantiser(E2M1, nv, ScaleRule::Nvfp4), {6, 449, 0, 0, {}}));
  refuses(nvfp4(quantiser(E2M1, nv, ScaleRule::Nvfp4), {0, 448, 0, 0, {}}));
  refuses(nvfp4(quantiser(E2M1, nv, ScaleRule::Nvfp4), {6, 448, 0.3, 0, {}}));
  refuses(nvfp4(quantiser(E2M1, nv, ScaleRule::Nvfp4), {6, 448, 0, 40, {}}));
  refuses(nvfp4(quantiser(E2M1, Granularity::block(16, 16), ScaleRule::Nvfp4), {6, 448, 0, 128, {}}));
  refuses(nvfp4(quantiser(E2M1, Granularity::per_tensor(), ScaleRule::Nvfp4), {6, 448, 0, 0, Selection::Mse}));
  refuses(log_steps(quantiser(E3M0, row, ScaleRule::Absmax), 7));
  refuses(trusted(quantiser(E4M3, row, ScaleRule::Absmax)));
  refuses(with_clamp(quantiser(F32, row, ScaleRule::None), 0.9, true, ResidualMode::Dense));
  QuantSpec dense_carried = with_clamp(quantiser(E2M1, row, ScaleRule::Absmax), 0.9, true, ResidualMode::Dense);
  dense_carried.carrier = E4M3;
  refuses(dense_carried);
  const auto fused = [](const QuantSpec& spec) { return with_clamp(spec, 0.9, true, ResidualMode::Fused); };
  refuses(with_clamp(quantiser(E2M1, row, ScaleRule::Absmax), 0, true, ResidualMode::Fused));
  refuses(fused(quantiser(Int4, row, ScaleRule::Absmax)));
  refuses(fused(quantiser(E4M3, row, ScaleRule::Absmax)));
  refuses(fused(quantiser(E2M1, row, ScaleRule::Ceil6)));
  refuses(fused(quantiser(E2M1, nv, ScaleRule::Nvfp4)));
  refuses(fused(quantiser(E2M1, Granularity::per_column(), ScaleRule::Absmax)));
  refuses(fused(quantiser(E2M1, Granularity::block(1, 32), ScaleRule::Absmax)));
  refuses(fused(trusted(quantiser(E2M1, row, ScaleRule::Absmax))));
  QuantSpec fused_carried = fused(quantiser(E2M1, row, ScaleRule::Absmax));
  fused_carried.carrier = E4M3;
  refuses(fused_carried);
  for (const Hadamard& transform :
       {Hadamard{3, Hadamard::Signs::Plus, false}, Hadamard{512, Hadamard::Signs::Plus, false},
        Hadamard{4, Hadamard::Signs::Vector, false}}) {
    QuantSpec rotated = quantiser(E2M1, row, ScaleRule::Absmax);
    rotated.hadamard = transform;
    refuses(rotated);
  }
  const OwnedTensor fold(DType::F32, {2});
  QuantizeContext folded;
  folded.row_fold = fold;
  QuantSpec turned = quantiser(E2M1, row, ScaleRule::Absmax);
  turned.transposed = true;
  EXPECT_THROW(quantize(x, turned, folded, arena), InternalError);
  QuantizeContext wrong_fold;
  wrong_fold.row_fold = x;
  EXPECT_THROW(quantize(x, quantiser(ElementFormat::BF16, Granularity::per_row(), ScaleRule::None), wrong_fold, arena),
               InternalError);
}

TEST(Quantize, RefusesATensorOfTheGpuWithAnArenaOfTheCpu) {
  const Tensor x(nullptr, DType::F32, {2, 4}, Device::Cuda);
  Arena arena;
  try {
    quantize(x, quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax), {}, arena);
    FAIL() << "no error";
  } catch (const std::exception& e) {
    EXPECT_NE(std::string(e.what()).find("quantize"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("GPU"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace nibble
