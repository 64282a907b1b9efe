#include "nibble/quant/dge.h"
#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using namespace testing_support;

/// dW of ones, so that what is left of it is the derivative.
void expect_same_derivative(const Tensor& w, const QuantSpec& spec, float k, float clip, float gradient = 1.0f) {
  SCOPED_TRACE(testing::Message() << to_string(w) << " k " << k << " clip " << clip << " rule "
                                  << static_cast<int>(spec.scale));
  Arena arena;
  const QTensor q = quantize(w, spec, {}, arena);
  const GpuQTensor gpu = as_quantised_on_gpu(q);
  const OwnedTensor want(DType::F32, {w.rows(), w.cols()});
  std::fill_n(want.view().data<float>(), want.view().numel(), gradient);
  const OwnedTensor got = on_gpu(want);
  const OwnedTensor w_gpu = on_gpu(w);
  dge_apply(want, w, q, spec, k, clip);
  dge_apply(got, w_gpu, gpu.q, spec, k, clip);
  expect_same_bits(want, got, "dge_apply");
}

TEST(CudaDge, GivesTheCpusBitsInEveryIntervalOfTheGrid) {
  NIBBLE_NEEDS_GPU();
  std::vector<float> w = {6.0f};
  for (int i = 0; i < 60000; ++i) w.push_back(-6.0f + 12.0f * static_cast<float>(i) / 60000.0f);
  for (const float middle : {.25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 0.5f, 1.0f, 4.0f}) {
    for (int i = -40; i <= 40; ++i)
      w.push_back(reference::as_float(reference::as_bits(middle) + static_cast<std::uint32_t>(i)));
  }
  for (const float v : {0.0f, -0.0f, 1e-45f, -1e-40f, 0x1p-126f}) w.push_back(v);
  while (w.size() % 8 != 0) w.push_back(1.0f);
  const auto n = static_cast<std::int64_t>(w.size());
  const QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp);
  QuantSpec rounded = spec;
  rounded.bf16_input = true;
  for (const float k : {1.0f, 2.0f, 3.0f, 5.0f, 10.0f}) {
    for (const float clip : {3.0f, 1e30f}) {
      expect_same_derivative(Tensor::of(w.data(), {1, n}), spec, k, clip);
      expect_same_derivative(Tensor::of(w.data(), {1, n}), rounded, k, clip, 0.37f);
      expect_same_derivative(Tensor::of(w.data(), {1, n - 3}), spec, k, clip, -1e-3f);
    }
  }
}

TEST(CudaDge, GivesTheCpusBitsUnderTheScalesOfEveryBlock) {
  NIBBLE_NEEDS_GPU();
  const std::vector<std::pair<Granularity, ScaleRule>> kinds = {
      {Granularity::per_row(), ScaleRule::Absmax},       {Granularity::per_column(), ScaleRule::AbsmaxPow2},
      {Granularity::per_tensor(), ScaleRule::Absmax},    {Granularity::block(1, 32), ScaleRule::Ceil6},
      {Granularity::block(16, 16), ScaleRule::Nvfp4},    {Granularity::block(3, 5), ScaleRule::Absmax},
      {Granularity::block(1, 1), ScaleRule::AbsmaxPow2}, {Granularity::block(1, 32), ScaleRule::RangeMatch34},
      {Granularity::block(1, 16), ScaleRule::Nvfp4},
  };
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{37, 83}, {64, 160}, {1, 64}, {33, 1}}) {
    std::vector<float> values = awkward_values(rows * cols, 12);
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const OwnedTensor w = reference::make_tensor(dtype, rows, cols, values);
      for (const auto& [granularity, scale] : kinds) {
        for (const ElementFormat carrier : {ElementFormat::BF16, ElementFormat::E4M3}) {
          for (const bool rounded : {false, true}) {
            QuantSpec spec = quantiser(ElementFormat::E2M1, granularity, scale, Rounding::NearestUp);
            spec.carrier = carrier;
            spec.bf16_input = rounded;
            expect_same_derivative(w, spec, 5, 3, 0.7f);
          }
        }
      }
      QuantSpec outer = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
      outer.nvfp4 = {6, 448, 0x1p-9, 32, {}};
      expect_same_derivative(w, outer, 5, 3);
    }
  }
}

TEST(CudaDge, GivesTheCpusBitsOnALargeWeightAndNoneOnAnEmptyOne) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor w = random_tensor(DType::F32, {1024, 2048}, 4, 0.02f);
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp);
  expect_same_derivative(w, spec, 5, 3);
  std::vector<float> zeros(64, 0.0f);
  spec = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4);
  expect_same_derivative(Tensor::of(zeros.data(), {2, 32}), spec, 5, 3);
  expect_same_derivative(Tensor::of(zeros.data(), {0, 32}), spec, 5, 3);
}

}  // namespace
}  // namespace nibble
