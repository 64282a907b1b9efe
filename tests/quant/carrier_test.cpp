#include <gtest/gtest.h>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

QuantSpec carried(Granularity granularity, ScaleRule scale, ElementFormat carrier) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = granularity;
  spec.scale = scale;
  spec.rounding = Rounding::NearestUp;
  spec.carrier = carrier;
  return spec;
}

TEST(Carrier, PowerOfTwoScalesSurviveTheCastExactly) {
  std::vector<float> x = reference::gaussian(48 * 96, 6);
  const Tensor tensor = Tensor::of(x.data(), {48, 96});
  for (const Granularity granularity : {Granularity::per_row(), Granularity::per_column(), Granularity::per_tensor()}) {
    for (const ElementFormat carrier : {ElementFormat::E4M3, ElementFormat::E5M2}) {
      QuantSpec spec = carried(granularity, ScaleRule::AbsmaxPow2, carrier);
      Arena arena;
      const QTensor q = quantize(tensor, spec, {}, arena);
      EXPECT_EQ(q.element, carrier);
      EXPECT_EQ(q.granularity, Granularity::per_tensor());
      spec.carrier = ElementFormat::BF16;
      const QTensor plain = quantize(tensor, spec, {}, arena);
      for (std::int64_t r = 0; r < 48; ++r) {
        for (std::int64_t c = 0; c < 96; ++c) ASSERT_EQ(q.value_at(r, c), plain.value_at(r, c)) << r << " " << c;
      }
    }
  }
}

TEST(Carrier, ValuesAreTheElementsRoundedUnderOneScaleOfTheTensor) {
  std::vector<float> x = reference::gaussian(20 * 50, 7);
  for (std::size_t i = 0; i < 50; ++i) x[i] *= 1e-4f;  // a row far below the others loses bits in the carrier
  const Tensor tensor = Tensor::of(x.data(), {20, 50});
  for (const ScaleRule scale : {ScaleRule::Absmax, ScaleRule::Nvfp4}) {
    const QuantSpec spec = carried(Granularity::block(1, 16), scale, ElementFormat::E4M3);
    Arena arena;
    const QTensor q = quantize(tensor, spec, {}, arena);
    const reference::Result elements = reference::quantize(x, 20, 50, spec, {});
    float amax = 0;
    for (const float v : elements.values) amax = std::max(amax, std::abs(v));
    const int e = std::ilogb(448.0f / amax);
    EXPECT_EQ(q.scale_at(0, 0), std::ldexp(1.0f, -e));
    for (std::int64_t r = 0; r < 20; ++r) {
      for (std::int64_t c = 0; c < 50; ++c) {
        const auto i = static_cast<std::size_t>(r * 50 + c);
        ASSERT_EQ(reference::code_at(q, r, c), reference::fp8(std::ldexp(elements.values[i], e), true));
      }
    }
  }
}

TEST(Carrier, ElementScalesAreThoseOfTheBlocksWithTheTensorScale) {
  std::vector<float> x = reference::gaussian(20 * 50, 8);
  for (const ScaleRule scale : {ScaleRule::Absmax, ScaleRule::Ceil6, ScaleRule::Nvfp4}) {
    const QuantSpec spec = carried(Granularity::block(3, 16), scale, ElementFormat::E5M2);
    Arena arena;
    const QTensor q = quantize(Tensor::of(x.data(), {20, 50}), spec, {}, arena);
    const reference::Result elements = reference::quantize(x, 20, 50, spec, {});
    EXPECT_EQ(q.element_granularity, spec.granularity);
    ASSERT_EQ(q.element_scales.numel(), 7 * 4);
    for (std::int64_t r = 0; r < 20; ++r) {
      for (std::int64_t c = 0; c < 50; ++c) {
        ASSERT_EQ(q.element_scales.data<float>()[r / 3 * 4 + c / 16],
                  elements.block_scale[static_cast<std::size_t>(r * 50 + c)] * elements.tensor_scale);
      }
    }
  }
}

TEST(Carrier, TheResidualOfTheClampIsKept) {
  std::vector<float> x = reference::gaussian(8 * 512, 9);
  QuantSpec spec = carried(Granularity::per_row(), ScaleRule::AbsmaxPow2, ElementFormat::E4M3);
  spec.clamp = {0.97, true, ResidualMode::Sparse};
  Arena arena;
  const QTensor q = quantize(Tensor::of(x.data(), {8, 512}), spec, {}, arena);
  // Memory that the call gave back is taken again: what it returned must not lie there.
  const Tensor other = arena.allocate(DType::U8, {1 << 16});
  fill_zero(other);
  spec.carrier = ElementFormat::BF16;
  Arena arena2;
  const QTensor plain = quantize(Tensor::of(x.data(), {8, 512}), spec, {}, arena2);
  ASSERT_EQ(q.residual.nnz(), plain.residual.nnz());
  for (std::int64_t i = 0; i < q.residual.nnz(); ++i) {
    EXPECT_EQ(q.residual.value.data<float>()[i], plain.residual.value.data<float>()[i]);
  }
  EXPECT_EQ(q.value_at(7, 511), plain.value_at(7, 511));
}

}  // namespace
}  // namespace nibble
