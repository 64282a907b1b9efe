#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using namespace testing_support;

void expect_same_quality(const QuantQuality& want, const QuantQuality& got) {
  constexpr double kRelative = 1e-9;
  EXPECT_NEAR(got.signal, want.signal, kRelative * want.signal);
  EXPECT_NEAR(got.noise, want.noise, kRelative * want.noise);
  EXPECT_NEAR(got.dot, want.dot, kRelative * want.signal);
  EXPECT_NEAR(got.quantised, want.quantised, kRelative * want.quantised);
  EXPECT_NEAR(got.error, want.error, kRelative * want.magnitude);
  EXPECT_NEAR(got.magnitude, want.magnitude, kRelative * want.magnitude);
  EXPECT_EQ(got.count, want.count);
  EXPECT_EQ(got.underflow, want.underflow);
  EXPECT_EQ(got.clamped, want.clamped);
  EXPECT_EQ(got.clipped, want.clipped);
  EXPECT_EQ(got.blocks, want.blocks);
  EXPECT_EQ(got.scale_saturated, want.scale_saturated);
  EXPECT_EQ(got.scale_underflow, want.scale_underflow);
}

/// x quantised on the CPU, and measured on either device; folds where they are given.
void expect_same_measurement(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context) {
  Arena arena;
  const QTensor q = quantize(x, spec, context, arena);
  const QuantQuality want = measure_quality(x, q, spec, context, arena);
  const GpuQTensor q_gpu = as_quantised_on_gpu(q);
  const OwnedTensor x_gpu = on_gpu(x);
  const GpuContext context_gpu(context);
  Arena scratch(Device::Cuda);
  const QuantQuality got = measure_quality(x_gpu, q_gpu.q, spec, *context_gpu, scratch);
  expect_same_quality(want, got);
  const QuantQuality again = measure_quality(x_gpu, q_gpu.q, spec, *context_gpu, scratch);
  EXPECT_EQ(got.noise, again.noise);
  EXPECT_EQ(got.error, again.error);
}

TEST(CudaQuality, IsTheCpusForEveryKindOfQTensor) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 0;
  for (Case c : cases()) {
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{80, 208}, {32, 272}}) {
      ++seed;
      c.spec.transposed = seed % 3 == 0;
      c.spec.hadamard = {};
      if (seed % 4 == 0) c.spec.hadamard = {16, Hadamard::Signs::Call, seed % 8 == 0};
      SCOPED_TRACE(testing::Message() << c.name << ", seed " << seed);
      for (const DType dtype : {DType::F32, DType::BF16}) {
        std::vector<float> values = awkward_values(rows * cols, seed);
        const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
        CaseContext given = case_context(c, x, seed);
        expect_same_measurement(x, c.spec, given.context);
        if (c.spec.transposed || c.spec.rounding == Rounding::Reference) continue;
        const OwnedTensor row_fold = random_tensor(DType::F32, {rows}, 8);
        const OwnedTensor col_fold = random_tensor(DType::F32, {cols}, 9);
        if (seed % 5 != 0) given.context.row_fold = row_fold;
        if (seed % 7 != 0) given.context.col_fold = col_fold;
        expect_same_measurement(x, c.spec, given.context);
      }
    }
  }
}

TEST(CudaQuality, IsTheCpusForAwkwardShapes) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{37, 83}, {1, 1}, {1, 1000}, {300, 1}, {3, 9}}) {
    for (const QuantSpec& spec : {quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4),
                                  quantiser(ElementFormat::E2M1, Granularity::block(1, 32), ScaleRule::OcpFloor),
                                  quantiser(ElementFormat::E4M3, Granularity::block(3, 5), ScaleRule::Ceil6),
                                  with_clamp(quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax),
                                             0.9, true, ResidualMode::Sparse)}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols << " rule " << static_cast<int>(spec.scale));
      std::vector<float> x = awkward_values(rows * cols, 21);
      expect_same_measurement(Tensor::of(x.data(), {rows, cols}), spec, {});
    }
  }
}

TEST(CudaQuality, IsTheCpusForOtherForms) {
  NIBBLE_NEEDS_GPU();
  std::vector<float> x = awkward_values(64 * 96, 3);
  const Tensor tensor = Tensor::of(x.data(), {64, 96});
  for (const bool transposed : {false, true}) {
    for (const bool rotated : {false, true}) {
      QuantSpec spec = with_clamp(quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4), 0.95,
                                  true, ResidualMode::None);
      spec.transposed = transposed;
      if (rotated) spec.hadamard = {32, Hadamard::Signs::Step, false};
      spec.carrier = ElementFormat::E4M3;
      expect_same_measurement(tensor, spec, {});
      spec.carrier = ElementFormat::BF16;
      spec.clamp.residual = ResidualMode::Dense;
      spec.bf16_input = true;
      expect_same_measurement(tensor, spec, {});
      spec.clamp = {0.9, false, ResidualMode::Sparse};
      expect_same_measurement(tensor, spec, {});
      spec.granularity = Granularity::per_row();
      spec.scale = ScaleRule::Absmax;
      spec.clamp.residual = ResidualMode::Fused;
      expect_same_measurement(tensor, spec, {});
    }
  }
  expect_same_measurement(tensor, {}, {});
}

TEST(CudaQuality, CountsScalesThatDoNotFitTheirBlock) {
  NIBBLE_NEEDS_GPU();
  std::vector<float> x(64, 0.0f);
  x[0] = 4;
  x[20] = 1e-6f;
  x[60] = 0.5f;
  for (const double zero_scale : {0.0, 0x1p-9, 1.0}) {
    for (const double val_max : {6.0, 8.0}) {
      QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
      spec.nvfp4.zero_scale = zero_scale;
      spec.nvfp4.val_max = val_max;
      expect_same_measurement(Tensor::of(x.data(), {1, 64}), spec, {});
      expect_same_measurement(Tensor::of(x.data(), {4, 16}), spec, {});
    }
  }
  std::vector<float> tiny(64, 1e-39f);
  expect_same_measurement(Tensor::of(tiny.data(), {2, 32}),
                          quantiser(ElementFormat::E2M1, Granularity::block(1, 32), ScaleRule::Ceil6), {});
}

TEST(CudaQuality, IsTheCpusForALargeMatrixAndZeroForNone) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = random_tensor(DType::BF16, {2048, 1024}, 6);
  expect_same_measurement(x, quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4), {});
  const OwnedTensor none(DType::F32, {0, 32}, Device::Cuda);
  Arena scratch(Device::Cuda);
  EXPECT_EQ(measure_quality(none, QTensor::view(none), {}, {}, scratch).count, 0);
}

}  // namespace
}  // namespace nibble
