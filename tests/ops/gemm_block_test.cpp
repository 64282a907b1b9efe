#include "nibble/ops/cpu/gemm_block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "nibble/ops/cpu/gemm_decode.h"
#include "nibble/quant/quantize.h"
#include "tests/ops/op_testing.h"
#include "tests/ops/operands.h"

namespace nibble {
namespace {

using testing::Extent;
using testing::make_operand;
using testing::Operand;
using testing::OperandSpec;
using testing::Order;
using testing::stored;

OperandSpec blocks(std::int64_t rows, std::int64_t cols, ScaleFormat format,
                   ElementFormat element = ElementFormat::E2M1) {
  OperandSpec spec;
  spec.element = element;
  spec.granularity = Granularity::block(rows, cols);
  spec.scale_format = format;
  return spec;
}

/// C by one of the kernels, as gemm calls it.
std::vector<float> product_by(const cpu::BlockDotKernel& kernel, const GemmOperand& a, const GemmOperand& b,
                              const Extent& s) {
  Arena arena;
  std::vector<float> scale_a(static_cast<std::size_t>(s.m));
  std::vector<float> scale_b(static_cast<std::size_t>(s.n));
  std::vector<float> c(static_cast<std::size_t>(s.m * s.n), NAN);
  cpu::fill_outer_scales(a, scale_a.data());
  cpu::fill_outer_scales(b, scale_b.data());
  cpu::Epilogue epilogue;
  epilogue.c = Tensor::of(c.data(), {s.m, s.n});
  epilogue.scale_a = scale_a.data();
  epilogue.scale_b = scale_b.data();
  cpu::gemm_block(a, b, epilogue, kernel, arena);
  return c;
}

/// The integers of an operand, its block scales and what is left to the epilogue, read element by element.
struct Parts {
  std::vector<std::int64_t> integers;  // [outer, k]
  std::vector<float> scales;           // [outer, k], inner ones
  std::vector<float> left;             // [outer]
  float unit;

  Parts(const GemmOperand& x, std::int64_t outer, std::int64_t k) : left(static_cast<std::size_t>(outer)) {
    const QTensor& q = x.matrix;
    unit = q.element == ElementFormat::Int4 ? 1.0f : q.element == ElementFormat::E3M0 ? 0.25f : 0.5f;
    const bool block_inner = cpu::inner_block(x) != 0;
    for (std::int64_t i = 0; i < outer; ++i) {
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int64_t r = x.transposed ? j : i;
        const std::int64_t c = x.transposed ? i : j;
        integers.push_back(static_cast<std::int64_t>(testing::element_value(q, r, c) / static_cast<double>(unit)));
        const float scale = testing::block_scale(q, r, c) * testing::outer_scale(q, r, c);
        scales.push_back(block_inner ? scale : 1.0f);
        left[static_cast<std::size_t>(i)] = block_inner ? q.tensor_scale : scale * q.tensor_scale;
      }
    }
  }
};

/// The definition in ops/gemm.h, with the int32 sums in int64.
std::vector<float> by_definition(const GemmOperand& a, const GemmOperand& b, const Extent& s, std::int64_t length) {
  const Parts x(a, s.m, s.k);
  const Parts y(b, s.n, s.k);
  std::vector<float> c;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      float sum = 0;
      for (std::int64_t k = 0; k < s.k; k += length) {
        const std::int64_t end = std::min(s.k, k + length);
        std::int64_t dot = 0;
        for (std::int64_t i = k; i < end; ++i) {
          dot += x.integers[static_cast<std::size_t>(m * s.k + i)] * y.integers[static_cast<std::size_t>(n * s.k + i)];
        }
        sum = sum + (static_cast<float>(dot) * x.scales[static_cast<std::size_t>(m * s.k + k)]) *
                        y.scales[static_cast<std::size_t>(n * s.k + k)];
      }
      c.push_back((sum * (x.unit * y.unit) * x.left[static_cast<std::size_t>(m)]) *
                  y.left[static_cast<std::size_t>(n)]);
    }
  }
  return c;
}

/// Every kernel of this CPU gives the bits of the definition, and gemm takes one of them.
void expect_bits(const GemmOperand& a, const GemmOperand& b, const Extent& s, std::int64_t length) {
  ASSERT_EQ(gemm_path(a, b), GemmPath::Int8Block);
  ASSERT_EQ(cpu::block_dot_length(a, b), length);
  const std::vector<float> expected = by_definition(a, b, s, length);
  for (const cpu::BlockDotKernel& kernel : cpu::block_dot_kernels()) {
    const std::vector<float> c = product_by(kernel, a, b, s);
    for (std::size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], expected[i]) << kernel.name << ", element " << i;
  }
  EXPECT_EQ(testing::product(a, b, s), expected);
}

constexpr Extent kExtents[] = {{1, 1, 17},    {1, 33, 40},  {7, 3, 33},     {6, 32, 64},    {5, 31, 35},
                               {13, 129, 70}, {97, 65, 47}, {33, 300, 129}, {100, 260, 96}, {12, 70, 600}};

TEST(GemmBlock, EveryKernelGivesTheBitsOfTheDefinitionForEveryShape) {
  struct Pair {
    OperandSpec a, b;
    std::int64_t length;
  };
  OperandSpec nvfp4 = blocks(1, 16, ScaleFormat::UE4M3);
  nvfp4.tensor_scale = 0.37f;
  OperandSpec four_thirds = blocks(1, 32, ScaleFormat::E8M0);
  four_thirds.tensor_scale = 4.0f / 3.0f;
  const Pair pairs[] = {{four_thirds, blocks(1, 32, ScaleFormat::E8M0), 32},
                        {nvfp4, blocks(16, 16, ScaleFormat::UE4M3), 16},
                        {blocks(1, 32, ScaleFormat::F32), blocks(32, 32, ScaleFormat::F32), 32}};
  unsigned seed = 1;
  for (const Pair& pair : pairs) {
    for (const Extent& s : kExtents) {
      if (s.k <= pair.length) continue;
      SCOPED_TRACE(fmt::format("{}x{}x{} blocks of {} seed {}", s.m, s.n, s.k, pair.length, ++seed));
      const Operand a = make_operand(pair.a, s.m, s.k, seed);
      const Operand b = make_operand(pair.b, s.n, s.k, seed + 1000);
      expect_bits({a.q}, {b.q}, s, pair.length);
    }
  }
}

TEST(GemmBlock, TransposedTilesAndUnequalBlocksGiveTheBitsOfTheDefinition) {
  OperandSpec double_block = blocks(1, 16, ScaleFormat::UE4M3);
  double_block.outer = 128;
  OperandSpec rows = blocks(1, 0, ScaleFormat::F32);
  const Extent s{75, 150, 290};
  struct Case {
    OperandSpec a, b;
    Order order;
    std::int64_t length;
  };
  const Case cases[] = {{blocks(1, 16, ScaleFormat::UE4M3), blocks(16, 16, ScaleFormat::UE4M3), {false, true}, 16},
                        {blocks(16, 16, ScaleFormat::UE4M3), blocks(16, 16, ScaleFormat::UE4M3), {true, true}, 16},
                        {blocks(32, 1, ScaleFormat::E8M0), blocks(32, 1, ScaleFormat::E8M0), {true, true}, 32},
                        {blocks(32, 32, ScaleFormat::E8M0), blocks(1, 32, ScaleFormat::E8M0), {true, false}, 32},
                        {blocks(1, 32, ScaleFormat::E8M0), blocks(1, 16, ScaleFormat::UE4M3), {false, false}, 16},
                        {blocks(1, 128, ScaleFormat::F32), blocks(1, 64, ScaleFormat::E8M0), {false, false}, 32},
                        {blocks(1, 48, ScaleFormat::F32), rows, {false, false}, 16},
                        {rows, blocks(32, 32, ScaleFormat::F32), {false, true}, 32},
                        {double_block, blocks(16, 16, ScaleFormat::UE4M3), {false, false}, 16},
                        {double_block, double_block, {false, false}, 16}};
  unsigned seed = 1;
  for (const Case& x : cases) {
    SCOPED_TRACE(fmt::format("seed {}", ++seed));
    const Operand a = stored(x.a, s.m, s.k, x.order.a_transposed, seed);
    const Operand b = stored(x.b, s.n, s.k, x.order.b_transposed, seed + 1000);
    expect_bits({a.q, x.order.a_transposed}, {b.q, x.order.b_transposed}, s, x.length);
  }
}

TEST(GemmBlock, FoldedScalesAreNone) {
  const Extent s{10, 40, 70};
  const Operand a = make_operand(blocks(1, 16, ScaleFormat::UE4M3), s.m, s.k, 1);
  OperandSpec columns;
  columns.granularity = Granularity::per_column();
  const Operand b = make_operand(columns, s.n, s.k, 2);
  Operand plain = make_operand(columns, s.n, s.k, 2);
  plain.q.granularity = Granularity::per_tensor();
  plain.q.scale_format = ScaleFormat::None;
  const std::vector<float> expected = by_definition({a.q}, {plain.q}, s, 16);
  EXPECT_EQ(testing::product({a.q}, {b.q, false, true}, s), expected);
}

TEST(GemmBlock, EveryPairOfCodesOfEveryPairOfFormatsIsExactInEveryPlace) {
  // Row i of A is code i throughout, so is row j of B; scales are 1: C[i, j] = K * value(i) * value(j), exactly. All
  // elements equal: the largest sums there are.
  const ElementFormat formats[] = {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0};
  for (const ElementFormat left : formats) {
    for (const ElementFormat right : formats) {
      if (left == ElementFormat::E3M0 && right == ElementFormat::E3M0) continue;
      for (const std::int64_t length : {16, 32}) {
        const std::int64_t k = 5 * length / 2;
        const auto rows_of_codes = [&](ElementFormat element) {
          Operand x = make_operand(blocks(1, length, ScaleFormat::E8M0, element), 16, k, 1);
          std::fill_n(x.q.scales.data<std::uint8_t>(), x.q.scales.numel(), std::uint8_t{127});
          for (std::uint8_t code = 0; code < 16; ++code) {
            for (std::int64_t i = 0; i < k; ++i) set_code(x, code, i, code);
          }
          return x;
        };
        const Operand a = rows_of_codes(left);
        const Operand b = rows_of_codes(right);
        for (const cpu::BlockDotKernel& kernel : cpu::block_dot_kernels()) {
          SCOPED_TRACE(fmt::format("{} elements {} {} length {}", kernel.name, static_cast<int>(left),
                                   static_cast<int>(right), length));
          const std::vector<float> c = product_by(kernel, {a.q}, {b.q}, {16, 16, k});
          for (std::int64_t i = 0; i < 16; ++i) {
            for (std::int64_t j = 0; j < 16; ++j) {
              EXPECT_EQ(c[static_cast<std::size_t>(i * 16 + j)],
                        static_cast<double>(k) * testing::element_value(a.q, i, 0) * testing::element_value(b.q, j, 0))
                  << i << " x " << j;
            }
          }
        }
      }
    }
  }
}

TEST(GemmBlock, LargestMagnitudesOfAnySignPatternDoNotSaturate) {
  // Rows: all +6, all -6, alternating, pairs, halves of a block; and against E3M0's largest, 16.
  const std::int64_t k = 256;
  for (const ElementFormat right : {ElementFormat::E2M1, ElementFormat::E3M0}) {
    for (const std::int64_t length : {16, 32}) {
      const auto patterns = [&](ElementFormat element) {
        Operand x = make_operand(blocks(1, length, ScaleFormat::E8M0, element), 5, k, 1);
        std::fill_n(x.q.scales.data<std::uint8_t>(), x.q.scales.numel(), std::uint8_t{127});
        for (std::int64_t i = 0; i < k; ++i) {
          const bool negative[] = {false, true, i % 2 != 0, i % 4 >= 2, i % length >= length / 2};
          for (std::int64_t r = 0; r < 5; ++r) set_code(x, r, i, negative[r] ? 15 : 7);
        }
        return x;
      };
      const Operand a = patterns(ElementFormat::E2M1);
      const Operand b = patterns(right);
      const float most = 6.0f * static_cast<float>(testing::element_value(b.q, 0, 0)) * static_cast<float>(k);
      const float expected[5][5] = {
          {most, -most, 0, 0, 0}, {-most, most, 0, 0, 0}, {0, 0, most, 0, 0}, {0, 0, 0, most, 0}, {0, 0, 0, 0, most}};
      for (const cpu::BlockDotKernel& kernel : cpu::block_dot_kernels()) {
        const std::vector<float> c = product_by(kernel, {a.q}, {b.q}, {5, 5, k});
        for (std::size_t i = 0; i < 5; ++i) {
          for (std::size_t j = 0; j < 5; ++j) {
            EXPECT_EQ(c[i * 5 + j], expected[i][j]) << kernel.name << " length " << length << " " << i << ", " << j;
          }
        }
      }
    }
  }
}

TEST(GemmBlock, ABlockSumTimesBothEightBitScalesIsExact) {
  // One block: the whole product is exact in F32, so it equals the sum in double.
  for (const ScaleFormat format : {ScaleFormat::E8M0, ScaleFormat::UE4M3}) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE(fmt::format("scales {} seed {}", static_cast<int>(format), seed));
      const Extent s{6, 32, 32};
      Operand a = make_operand(blocks(1, 16, format), s.m, s.k, seed);
      const Operand b = make_operand(blocks(1, 16, format), s.n, s.k, seed + 1000);
      // The second block of A is zero.
      for (std::int64_t r = 0; r < s.m; ++r) {
        for (std::int64_t c = 16; c < s.k; ++c) set_code(a, r, c, 8);
      }
      const testing::Oracle o = testing::naive({a.q}, {b.q}, s);
      const std::vector<float> c = testing::product({a.q}, {b.q}, s);
      for (std::size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], o.sum[i]) << i;
    }
  }
}

TEST(GemmBlock, AgreesWithTheNaiveProductToWithinTheRoundingOfItsBlocks) {
  // One rounding a block to add, at most four more to scale: each at most 2^-24 of the magnitude.
  const Extent s{50, 70, 1000};
  OperandSpec double_block = blocks(1, 16, ScaleFormat::UE4M3);
  double_block.outer = 128;
  for (const OperandSpec& spec : {blocks(1, 32, ScaleFormat::E8M0), blocks(1, 16, ScaleFormat::UE4M3), double_block}) {
    for (unsigned seed = 1; seed <= 3; ++seed) {
      SCOPED_TRACE(fmt::format("blocks of {} seed {}", spec.granularity.cols, seed));
      const Operand a = make_operand(spec, s.m, s.k, seed);
      const Operand b = make_operand(spec, s.n, s.k, seed + 1000);
      const testing::Oracle o = testing::naive({a.q}, {b.q}, s);
      const std::vector<float> c = testing::product({a.q}, {b.q}, s);
      const double unit = 0x1p-24 * (4 + 2 * std::sqrt(1000.0 / static_cast<double>(spec.granularity.cols)));
      for (std::size_t i = 0; i < c.size(); ++i) ASSERT_NEAR(c[i], o.sum[i], unit * o.magnitude[i]) << i;
    }
  }
}

TEST(GemmBlock, QuantisedMatricesMultiplyLikeTheirDequantisedValuesInF32) {
  const Extent s{64, 96, 256};
  const OwnedTensor x = testing::random_tensor(DType::F32, {s.m, s.k}, 1, -3.0f, 3.0f);
  const OwnedTensor w = testing::random_tensor(DType::F32, {s.n, s.k}, 2, -0.2f, 0.2f);
  struct Format {
    ScaleRule rule;
    Granularity granularity;
  };
  for (const Format& format :
       {Format{ScaleRule::OcpFloor, Granularity::block(1, 32)}, Format{ScaleRule::Nvfp4, Granularity::block(1, 16)},
        Format{ScaleRule::Nvfp4, Granularity::block(16, 16)}}) {
    SCOPED_TRACE(static_cast<int>(format.rule));
    QuantSpec spec;
    spec.element = ElementFormat::E2M1;
    spec.granularity = format.granularity;
    spec.scale = format.rule;
    Arena arena;
    const QTensor qx = quantize(x, spec, {}, arena);
    const QTensor qw = quantize(w, spec, {}, arena);
    const OwnedTensor vx(DType::F32, {s.m, s.k});
    const OwnedTensor vw(DType::F32, {s.n, s.k});
    dequantize(qx, vx);
    dequantize(qw, vw);
    const std::vector<float> c = testing::product({qx}, {qw}, s);
    const std::vector<float> f32 = testing::product({QTensor::view(vx)}, {QTensor::view(vw)}, s);
    const testing::Oracle o = testing::naive({QTensor::view(vx)}, {QTensor::view(vw)}, s);
    for (std::size_t i = 0; i < c.size(); ++i) ASSERT_NEAR(c[i], f32[i], 1e-6 * o.magnitude[i]) << i;
  }
}

TEST(GemmBlock, AnyNumberOfThreadsGivesTheSameBits) {
  const Extent s{230, 620, 333};
  for (const bool b_transposed : {false, true}) {
    const Operand a = make_operand(blocks(1, 16, ScaleFormat::F32), s.m, s.k, 1);
    const Operand b = stored(blocks(16, 16, ScaleFormat::UE4M3), s.n, s.k, b_transposed, 2);
    const auto on_threads = [&](int count) {
      const testing::Threads threads(count);
      return testing::product({a.q}, {b.q, b_transposed}, s);
    };
    const std::vector<float> one = on_threads(1);
    EXPECT_EQ(on_threads(2), one);
    EXPECT_EQ(on_threads(3), one);
    std::vector<float> nested[2];
#pragma omp parallel num_threads(2)
    nested[omp_get_thread_num()] = testing::product({a.q}, {b.q, b_transposed}, s);
    EXPECT_EQ(nested[0], one);
  }
}

TEST(GemmBlock, SeveralPanelsOfColumnsAreCovered) {
  // Packed B takes more than 16 MiB.
  const Extent s{2, 1300, 9000};
  const Operand a = make_operand(blocks(1, 16, ScaleFormat::UE4M3), s.m, s.k, 1);
  const Operand b = make_operand(blocks(1, 16, ScaleFormat::UE4M3), s.n, s.k, 2);
  EXPECT_EQ(testing::product({a.q}, {b.q}, s), by_definition({a.q}, {b.q}, s, 16));
}

TEST(GemmBlock, AddsToCAndRoundsToBf16Once) {
  const Extent s{40, 50, 96};
  const Operand a = make_operand(blocks(1, 32, ScaleFormat::E8M0), s.m, s.k, 1);
  const Operand b = make_operand(blocks(1, 32, ScaleFormat::E8M0), s.n, s.k, 2);
  const std::vector<float> p = testing::product({a.q}, {b.q}, s);
  Arena arena;
  std::vector<float> sum(p.size(), 1.5f);
  gemm({a.q}, {b.q}, Tensor::of(sum.data(), {s.m, s.n}), Accumulate::Add, arena);
  std::vector<bf16> rounded(p.size());
  gemm({a.q}, {b.q}, Tensor::of(rounded.data(), {s.m, s.n}), Accumulate::Overwrite, arena);
  for (std::size_t i = 0; i < p.size(); ++i) {
    ASSERT_EQ(sum[i], 1.5f + p[i]) << i;
    ASSERT_EQ(rounded[i].bits, bf16_encode(p[i]).bits) << i;
  }
  EXPECT_EQ(arena.mark().block, 0u);
  EXPECT_EQ(arena.mark().offset, 0u) << "scratch is given back";
}

TEST(GemmBlock, EmptyProductsTouchNothing) {
  Arena arena;
  const Operand none = make_operand(blocks(1, 16, ScaleFormat::UE4M3), 0, 64, 1);
  const Operand some = make_operand(blocks(1, 16, ScaleFormat::UE4M3), 4, 64, 2);
  float untouched = 7;
  EXPECT_NO_THROW(gemm({none.q}, {some.q}, Tensor::of(&untouched, {0, 4}), Accumulate::Overwrite, arena));
  EXPECT_NO_THROW(gemm({some.q}, {none.q}, Tensor::of(&untouched, {4, 0}), Accumulate::Overwrite, arena));
  EXPECT_EQ(untouched, 7);
}

TEST(GemmBlock, TheLastKernelIsThePortableOne) {
  ASSERT_FALSE(cpu::block_dot_kernels().empty());
  EXPECT_STREQ(cpu::block_dot_kernels().back().name, "portable");
}

}  // namespace
}  // namespace nibble
