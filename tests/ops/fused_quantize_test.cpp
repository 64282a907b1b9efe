// Where quantising takes two passes it is the two calls; and what can be fused is said by spec, width and device.
#include "nibble/ops/fused_quantize.h"

#include <gtest/gtest.h>

#include "nibble/ops/rmsnorm.h"
#include "nibble/ops/swiglu.h"
#include "tests/quant/quantiser.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::random_tensor;

QuantSpec wang_activation() {
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp);
  spec.clamp = {0.99, true, ResidualMode::Sparse};
  return spec;
}

void expect_equal(const Tensor& want, const Tensor& got) {
  ASSERT_EQ(want.bytes(), got.bytes());
  EXPECT_EQ(std::memcmp(want.raw(), got.raw(), want.bytes()), 0);
}

TEST(FusedQuantize, OnTheCpuIsTheTwoCalls) {
  Arena arena;
  Arena scratch;
  const OwnedTensor x = random_tensor(DType::F32, {7, 96}, 1, 2.0f);
  const OwnedTensor gain = random_tensor(DType::F32, {96}, 2);
  const OwnedTensor y(DType::BF16, {7, 96});
  const OwnedTensor rstd[] = {OwnedTensor(DType::F32, {7}), OwnedTensor(DType::F32, {7})};
  rmsnorm_forward(x, gain, 1e-5f, y, rstd[0]);
  const QTensor want = quantize(y, wang_activation(), {}, arena);
  const QTensor got = rmsnorm_quantize(x, gain, 1e-5f, rstd[1], wang_activation(), {}, arena, scratch);
  expect_equal(want.codes, got.codes);
  expect_equal(want.scales, got.scales);
  expect_equal(want.residual.row_begin, got.residual.row_begin);
  expect_equal(rstd[0], rstd[1]);

  const OwnedTensor gate_up = random_tensor(DType::BF16, {7, 2 * 96}, 3, 3.0f);
  swiglu_forward(gate_up, y);
  const QTensor hidden = quantize(y, wang_activation(), {}, arena);
  expect_equal(hidden.codes, swiglu_quantize(gate_up, wang_activation(), {}, arena, scratch).codes);
}

TEST(FusedQuantize, IsForRowsThatABlockHoldsOnAGpu) {
  const QuantSpec spec = wang_activation();
  EXPECT_FALSE(fuses_quantize(spec, 2048, Device::Cpu));
  for (const std::int64_t width : {256, 2048, 5632, 12'288})
    EXPECT_TRUE(fuses_quantize(spec, width, Device::Cuda)) << width;
  for (const std::int64_t width : {128, 250, 2044, 12'296})
    EXPECT_FALSE(fuses_quantize(spec, width, Device::Cuda)) << width;
  const auto fuses_with = [&](auto&& change) {
    QuantSpec other = spec;
    change(other);
    return fuses_quantize(other, 2048, Device::Cuda);
  };
  EXPECT_TRUE(fuses_with([](QuantSpec& s) { s.clamp.residual = ResidualMode::Fused; }));
  EXPECT_TRUE(fuses_with([](QuantSpec& s) { s.rounding = Rounding::NearestEven; }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.clamp.residual = ResidualMode::Dense; }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.clamp = {}; }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.clamp.per_row = false; }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.rounding = Rounding::Stochastic; }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.granularity = Granularity::block(1, 32); }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.transposed = true; }));
  EXPECT_FALSE(fuses_with([](QuantSpec& s) { s.hadamard.group = 32; }));
}

}  // namespace
}  // namespace nibble
