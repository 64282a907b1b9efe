#include "nibble/quant/qtensor.h"

#include <gtest/gtest.h>

#include "nibble/quant/quantize.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {
namespace {

TEST(QTensor, AViewSharesTheMatrix) {
  std::vector<float> x = {1, 2, 3, 4, 5, 6};
  const QTensor q = QTensor::view(Tensor::of(x.data(), {3, 2}));
  EXPECT_EQ(q.element, ElementFormat::F32);
  EXPECT_EQ(q.codes.raw(), x.data());
  EXPECT_EQ(q.rows, 3);
  EXPECT_EQ(q.cols, 2);
  EXPECT_EQ(q.value_at(2, 0), 5.0f);
  EXPECT_EQ(q.scale_at(2, 0), 1.0f);
  EXPECT_EQ(stored_bytes(q), 24u);
  const OwnedTensor bytes(DType::U8, {2, 2});
  EXPECT_THROW(QTensor::view(bytes), InternalError);
  EXPECT_THROW(q.value_at(3, 0), InternalError);
}

TEST(QTensor, StoredBytesAreThePublishedBitsAValue) {
  const OwnedTensor x(DType::F32, {64, 256});
  const auto bits = [&](Granularity granularity, ScaleRule scale) {
    QuantSpec spec;
    spec.element = ElementFormat::E2M1;
    spec.granularity = granularity;
    spec.scale = scale;
    Arena arena;
    return 8.0 * static_cast<double>(stored_bytes(quantize(x, spec, {}, arena))) / (64 * 256);
  };
  EXPECT_EQ(bits(Granularity::block(1, 32), ScaleRule::Ceil6), 4.25);
  EXPECT_EQ(bits(Granularity::block(1, 16), ScaleRule::Nvfp4), 4.5 + 32.0 / (64 * 256));
  EXPECT_EQ(bits(Granularity::per_row(), ScaleRule::Absmax), 4 + 32.0 / 256);
}

TEST(QTensor, FormatsHaveTheirLimits) {
  EXPECT_EQ(element_max(ElementFormat::E2M1), 6);
  EXPECT_EQ(element_max(ElementFormat::E4M3), 448);
  EXPECT_EQ(element_max(ElementFormat::E5M2), 57344);
  EXPECT_EQ(element_max(ElementFormat::Int4), 7);
  EXPECT_EQ(element_max(ElementFormat::E3M0), 16);
  EXPECT_EQ(element_bits(ElementFormat::E2M1), 4);
  EXPECT_EQ(element_bits(ElementFormat::Int4), 4);
  EXPECT_EQ(element_bits(ElementFormat::E3M0), 4);
  EXPECT_EQ(scale_format(ScaleRule::QuestNearest), ScaleFormat::E8M0);
  EXPECT_EQ(scale_format(ScaleRule::QuestExact), ScaleFormat::F32);
  EXPECT_EQ(scale_format(ScaleRule::Sawb), ScaleFormat::F32);
  EXPECT_EQ(element_bits(ElementFormat::BF16), 16);
  EXPECT_EQ(scale_format(ScaleRule::Nvfp4), ScaleFormat::UE4M3);
}

TEST(QTensor, DequantizeGivesValueAtPlusTheResidual) {
  for (const ElementFormat element :
       {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0, ElementFormat::E4M3, ElementFormat::E5M2,
        ElementFormat::BF16, ElementFormat::F32}) {
    for (const Granularity granularity :
         {Granularity::per_row(), Granularity::per_column(), Granularity::block(4, 8)}) {
      std::vector<float> x = reference::gaussian(19 * 41, 1);
      QuantSpec spec;
      spec.element = element;
      spec.granularity = granularity;
      spec.scale = has_scale(element) ? ScaleRule::Absmax : ScaleRule::None;
      spec.clamp = {0.95, true, ResidualMode::Sparse};
      Arena arena;
      const QTensor q = quantize(Tensor::of(x.data(), {19, 41}), spec, {}, arena);
      std::vector<float> dense(x.size(), 0.0f);
      for (std::int64_t r = 0; r < 19; ++r) {
        for (std::int32_t i = q.residual.row_begin.data<std::int32_t>()[r];
             i < q.residual.row_begin.data<std::int32_t>()[r + 1]; ++i) {
          dense[static_cast<std::size_t>(r * 41 + q.residual.col.data<std::int32_t>()[i])] =
              q.residual.value.data<float>()[i];
        }
      }
      std::vector<float> floats(x.size());
      const OwnedTensor halves(DType::BF16, {19, 41});
      dequantize(q, Tensor::of(floats.data(), {19, 41}));
      dequantize(q, halves);
      for (std::int64_t r = 0; r < 19; ++r) {
        for (std::int64_t c = 0; c < 41; ++c) {
          const auto i = static_cast<std::size_t>(r * 41 + c);
          ASSERT_EQ(floats[i], q.value_at(r, c) + dense[i]);
          ASSERT_EQ(bf16_decode(halves.view().data<bf16>()[i]), reference::to_bf16(floats[i]));
        }
      }
    }
  }
}

TEST(QTensor, DequantizeMultipliesOuterScalesIn) {
  const std::vector<float> x = reference::gaussian(7 * 330, 2);
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::block(1, 16);
  spec.scale = ScaleRule::Nvfp4;
  spec.nvfp4.outer = 128;
  spec.trust_mask = true;
  Arena arena;
  const QTensor q = quantize(Tensor::of(x.data(), {7, 330}), spec, {}, arena);
  std::vector<float> values(x.size());
  dequantize(q, Tensor::of(values.data(), {7, 330}));
  for (std::int64_t r = 0; r < 7; ++r) {
    for (std::int64_t c = 0; c < 330; ++c) {
      ASSERT_EQ(values[static_cast<std::size_t>(r * 330 + c)], q.value_at(r, c)) << r << " " << c;
    }
  }
  EXPECT_EQ(stored_bytes(q), 7u * (165 + 21 + 3 * 4 + 42));
}

TEST(QTensor, AllEightBitCodesDecodeToTheirValues) {
  for (const bool e4m3 : {true, false}) {
    std::vector<std::uint8_t> codes(256);
    for (std::size_t i = 0; i < 256; ++i) codes[i] = static_cast<std::uint8_t>(i);
    float one = 1.0f;
    QTensor q;
    q.element = e4m3 ? ElementFormat::E4M3 : ElementFormat::E5M2;
    q.rows = 1;
    q.cols = 256;
    q.granularity = Granularity::per_tensor();
    q.scale_format = ScaleFormat::F32;
    q.codes = Tensor::of(codes.data(), {1, 256});
    q.scales = Tensor::of(&one, {1, 1});
    std::vector<float> values(256);
    dequantize(q, Tensor::of(values.data(), {1, 256}));
    const int finite = e4m3 ? 0x7F : 0x7C;
    for (int i = 0; i < 256; ++i) {
      const int m = i & 0x7F;
      const float value = values[static_cast<std::size_t>(i)];
      if (m < finite) {
        const double want = e4m3 ? reference::e4m3_magnitude(m) : reference::e5m2_magnitude(m);
        EXPECT_EQ(value, i < 128 ? want : -want) << i;
      } else if (!e4m3 && m == 0x7C) {
        EXPECT_TRUE(std::isinf(value)) << i;
      } else {
        EXPECT_TRUE(std::isnan(value)) << i;
      }
    }
  }
}

}  // namespace
}  // namespace nibble
