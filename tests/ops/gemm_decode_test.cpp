#include "nibble/ops/cpu/gemm_decode.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "nibble/ops/operand_scales.h"
#include "tests/ops/operands.h"

namespace nibble {
namespace {

using testing::make_operand;
using testing::Operand;
using testing::OperandSpec;

/// Decode with the contraction last, compare every element with `expected(value without scales, scale)`.
template <class T, class Expected>
void expect_decoded(const Operand& x, bool transposed, Expected expected) {
  const GemmOperand operand{x.q, transposed};
  const std::int64_t outer = outer_extent(operand);
  const std::int64_t k = inner_extent(operand);
  const std::int64_t begin = 2;
  std::vector<T> out(static_cast<std::size_t>((outer - begin) * k));
  std::vector<T> scratch(static_cast<std::size_t>(cpu::decode_scratch(outer - begin)));
  cpu::decode_outer(operand, begin, outer, out.data(), k, scratch.data());
  for (std::int64_t i = begin; i < outer; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t r = transposed ? j : i;
      const std::int64_t c = transposed ? i : j;
      ASSERT_EQ(out[static_cast<std::size_t>((i - begin) * k + j)],
                expected(static_cast<float>(testing::element_value(x.q, r, c)), testing::block_scale(x.q, r, c)))
          << r << ", " << c;
    }
  }
}

OperandSpec spec_of(ElementFormat element, Granularity granularity, ScaleFormat format) {
  OperandSpec spec;
  spec.element = element;
  spec.granularity = granularity;
  spec.scale_format = format;
  return spec;
}

TEST(GemmDecode, CodesBecomeUnsignedIntegersInBothStorageOrders) {
  const OperandSpec spec = spec_of(ElementFormat::E2M1, Granularity::per_tensor(), ScaleFormat::None);
  for (const bool transposed : {false, true}) {
    expect_decoded<std::uint8_t>(make_operand(spec, 75, 131, 1), transposed,
                                 [](float x, float) { return static_cast<std::uint8_t>(2 * x + 12); });
  }
}

TEST(GemmDecode, EveryByteBecomesTheIntegersOfItsTwoCodes) {
  for (const ElementFormat element : {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0}) {
    SCOPED_TRACE(static_cast<int>(element));
    QTensor q;
    q.element = element;
    q.rows = 1;
    q.cols = 512;
    std::vector<std::uint8_t> bytes(256);
    for (std::size_t i = 0; i < 256; ++i) bytes[i] = static_cast<std::uint8_t>(i);
    q.codes = Tensor::of(bytes.data(), {1, 256});
    std::vector<std::int8_t> out(512);
    cpu::decode_stored(GemmOperand{q}, 0, 1, 0, 512, out.data(), 512);
    const cpu::IntegerCodes codes = cpu::integer_codes(element);
    for (std::int64_t i = 0; i < 512; ++i) {
      EXPECT_EQ(static_cast<double>(codes.unit) * out[static_cast<std::size_t>(i)], testing::element_value(q, 0, i))
          << i;
    }
    EXPECT_EQ(*std::max_element(out.begin(), out.end()), codes.largest);
    EXPECT_EQ(*std::min_element(out.begin(), out.end()), -codes.largest);
  }
}

TEST(GemmDecode, ValuesTimesInnerScalesAreRoundedOnce) {
  const auto times = [](float x, float scale) { return x * scale; };
  for (const ElementFormat element :
       {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0, ElementFormat::E4M3, ElementFormat::E5M2}) {
    for (const ScaleFormat format : {ScaleFormat::F32, ScaleFormat::E8M0, ScaleFormat::UE4M3}) {
      for (const Granularity granularity : {Granularity::block(1, 16), Granularity::block(16, 1),
                                            Granularity::block(16, 16), Granularity::block(3, 7)}) {
        for (const bool transposed : {false, true}) {
          SCOPED_TRACE(fmt::format("element {} scales {} blocks {}x{} transposed {}", static_cast<int>(element),
                                   static_cast<int>(format), granularity.rows, granularity.cols, transposed));
          // Wider than one pass of the decoder, which takes 512 elements.
          expect_decoded<float>(make_operand(spec_of(element, granularity, format), 18, 1030, 1), transposed, times);
        }
      }
    }
  }
}

TEST(GemmDecode, OuterScalesAreLeftToTheEpilogue) {
  OperandSpec spec = spec_of(ElementFormat::E4M3, Granularity::per_row(), ScaleFormat::F32);
  spec.tensor_scale = 3.0f;
  const Operand x = make_operand(spec, 20, 33, 1);
  expect_decoded<float>(x, false, [](float value, float) { return value; });
  std::vector<float> scales(20);
  cpu::fill_outer_scales({x.q}, scales.data());
  for (std::int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(scales[static_cast<std::size_t>(i)], testing::block_scale(x.q, i, 0) * 3.0f);
  }
  std::vector<float> inner(33);
  cpu::fill_outer_scales({x.q, true}, inner.data());
  EXPECT_EQ(inner, std::vector<float>(33, 3.0f)) << "the tensor scale remains when row scales are inner ones";
  cpu::fill_outer_scales({x.q, true, true}, inner.data());
  EXPECT_EQ(inner, std::vector<float>(33, 1.0f)) << "folded scales are no scales";
}

TEST(GemmDecode, ScalesOfTheSecondLevelMultiplyThoseOfTheBlocksInF32) {
  OperandSpec spec = spec_of(ElementFormat::E2M1, Granularity::block(1, 16), ScaleFormat::UE4M3);
  spec.outer = 32;
  spec.tensor_scale = 3.0f;
  const Operand x = make_operand(spec, 37, 101, 1);
  std::vector<float> row(101);
  std::vector<float> blocks(37 * 7);
  cpu::fill_block_scales({x.q}, 0, 37, 16, blocks.data(), 7);
  for (std::int64_t r = 0; r < 37; ++r) {
    cpu::expand_scales({x.q}, r, 0, 101, row.data());
    for (std::int64_t c = 0; c < 101; ++c) {
      const float expected = testing::block_scale(x.q, r, c) * testing::outer_scale(x.q, r, c);
      ASSERT_EQ(row[static_cast<std::size_t>(c)], expected) << r << ", " << c;
      ASSERT_EQ(blocks[static_cast<std::size_t>(r * 7 + c / 16)], expected) << r << ", " << c;
    }
  }
  std::vector<float> left(37);
  cpu::fill_outer_scales({x.q}, left.data());
  EXPECT_EQ(left, std::vector<float>(37, 3.0f)) << "only the tensor scale is left";

  // Under a scale as wide as the row the second level leaves the contraction, and the values are exact in BF16 again.
  spec.outer = 128;
  const Operand wide = make_operand(spec, 37, 101, 2);
  EXPECT_FALSE(cpu::exact_in_bf16({x.q}));
  EXPECT_TRUE(cpu::exact_in_bf16({wide.q}));
  cpu::fill_outer_scales({wide.q}, left.data());
  for (std::int64_t r = 0; r < 37; ++r) {
    EXPECT_EQ(left[static_cast<std::size_t>(r)], testing::outer_scale(wide.q, r, 0) * 3.0f) << r;
  }
}

TEST(GemmDecode, BlockScalesFollowTheContractionInBothStorageOrders) {
  for (const Granularity granularity :
       {Granularity::block(16, 16), Granularity::block(32, 64), Granularity::block(16, 32)}) {
    for (const ScaleFormat format : {ScaleFormat::F32, ScaleFormat::E8M0, ScaleFormat::UE4M3}) {
      for (const bool transposed : {false, true}) {
        SCOPED_TRACE(fmt::format("blocks {}x{} scales {} transposed {}", granularity.rows, granularity.cols,
                                 static_cast<int>(format), transposed));
        const Operand x = make_operand(spec_of(ElementFormat::E2M1, granularity, format), 75, 150, 1);
        const GemmOperand operand{x.q, transposed};
        const std::int64_t k = inner_extent(operand);
        const std::int64_t n = outer_extent(operand);
        EXPECT_EQ(cpu::inner_block(operand), transposed ? granularity.rows : granularity.cols);
        std::vector<float> scales(static_cast<std::size_t>(n * 10));
        cpu::fill_block_scales(operand, 5, n, 16, scales.data(), 10);
        for (std::int64_t i = 5; i < n; ++i) {
          for (std::int64_t kk = 0; kk < k; ++kk) {
            ASSERT_EQ(scales[static_cast<std::size_t>((i - 5) * 10 + kk / 16)],
                      transposed ? testing::block_scale(x.q, kk, i) : testing::block_scale(x.q, i, kk))
                << i << ", " << kk;
          }
        }
      }
    }
  }
}

TEST(GemmDecode, ExactnessInBf16IsClaimedOnlyWhereEveryValueSurvives) {
  const Granularity block = Granularity::block(1, 16);
  for (const ElementFormat element :
       {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0, ElementFormat::E4M3, ElementFormat::E5M2}) {
    for (const ScaleFormat format : {ScaleFormat::E8M0, ScaleFormat::UE4M3, ScaleFormat::F32}) {
      for (const bool powers_of_two : {false, true}) {
        OperandSpec spec = spec_of(element, block, format);
        spec.powers_of_two = powers_of_two;
        const Operand x = make_operand(spec, 64, 160, 1);
        if (!cpu::exact_in_bf16({x.q})) continue;
        for (std::int64_t r = 0; r < 64; ++r) {
          for (std::int64_t c = 0; c < 160; ++c) {
            const double v = testing::value(x.q, r, c);
            ASSERT_EQ(bf16_round(static_cast<float>(v)), v) << r << ", " << c;
          }
        }
      }
    }
  }
  const OperandSpec f32 = spec_of(ElementFormat::E2M1, block, ScaleFormat::F32);
  EXPECT_FALSE(cpu::exact_in_bf16({make_operand(f32, 4, 32, 1).q}));
  const OperandSpec nvfp4 = spec_of(ElementFormat::E2M1, block, ScaleFormat::UE4M3);
  EXPECT_TRUE(cpu::exact_in_bf16({make_operand(nvfp4, 4, 32, 1).q}));
}

}  // namespace
}  // namespace nibble
