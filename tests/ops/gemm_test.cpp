#include "nibble/ops/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nibble/ops/cpu/dnnl_matmul.h"
#include "tests/ops/op_testing.h"
#include "tests/ops/operands.h"

namespace nibble {
namespace {

using testing::Extent;
using testing::kOrders;
using testing::make_operand;
using testing::naive;
using testing::Operand;
using testing::OperandSpec;
using testing::Oracle;
using testing::Order;
using testing::product;
using testing::stored;

/// Rounding of a sum of k products grows like sqrt(k) in practice; 2 more roundings decode, 2 scale. One wrong element
/// of an operand shows as 1/k of the magnitude, far above this.
void expect_close(const std::vector<float>& c, const Oracle& o, std::int64_t k) {
  const double unit = 0x1p-24 * (4 + 2 * std::sqrt(static_cast<double>(k)));
  for (std::size_t i = 0; i < c.size(); ++i) {
    ASSERT_NEAR(c[i], o.sum[i], unit * o.magnitude[i]) << "element " << i;
  }
}

/// Twice an E2M1 value is an integer, so is an Int4 value, and four times an E3M0 value.
double unit(const QTensor& q) {
  return q.element == ElementFormat::Int4 ? 1.0 : q.element == ElementFormat::E3M0 ? 0.25 : 0.5;
}

/// What the Int8 path promises: the exact sum of integers, rounded to F32 once, then one multiplication a scale.
float exact_int8(const GemmOperand& a, const GemmOperand& b, std::int64_t m, std::int64_t n, std::int64_t k) {
  const auto at = [](const GemmOperand& x, std::int64_t outer, std::int64_t inner) {
    return x.transposed ? testing::element_value(x.matrix, inner, outer)
                        : testing::element_value(x.matrix, outer, inner);
  };
  const auto scale = [](const GemmOperand& x, std::int64_t outer) {
    if (x.scales_folded) return 1.0f;
    const QTensor& q = x.matrix;
    const float block = x.transposed ? testing::block_scale(q, 0, outer) : testing::block_scale(q, outer, 0);
    return block * (x.transposed ? 1.0f : testing::outer_scale(q, outer, 0)) * q.tensor_scale;
  };
  const double unit_a = unit(a.matrix);
  const double unit_b = unit(b.matrix);
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    sum += static_cast<std::int64_t>(at(a, m, i) / unit_a) * static_cast<std::int64_t>(at(b, n, i) / unit_b);
  }
  return (static_cast<float>(sum) * static_cast<float>(unit_a * unit_b) * scale(a, m)) * scale(b, n);
}

void expect_exact_int8(const GemmOperand& a, const GemmOperand& b, const Extent& s) {
  ASSERT_EQ(gemm_path(a, b), GemmPath::Int8);
  const std::vector<float> c = product(a, b, s);
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      ASSERT_EQ(c[static_cast<std::size_t>(m * s.n + n)], exact_int8(a, b, m, n, s.k)) << m << ", " << n;
    }
  }
}

Granularity outer_scales(bool transposed) { return transposed ? Granularity::per_column() : Granularity::per_row(); }

OperandSpec fp4(Granularity granularity, ScaleFormat format = ScaleFormat::F32) {
  OperandSpec spec;
  spec.granularity = granularity;
  spec.scale_format = format;
  return spec;
}

OperandSpec values(ElementFormat element, bool integers = false) {
  OperandSpec spec;
  spec.element = element;
  spec.integers = integers;
  return spec;
}

constexpr Extent kExtents[] = {{1, 1, 1},   {1, 7, 3},     {5, 1, 2},      {3, 17, 33},   {64, 64, 64},
                               {65, 31, 7}, {130, 257, 5}, {33, 300, 129}, {70, 129, 65}, {131, 96, 256}};

// --- The integer path is exact. ---

TEST(GemmInt8, EveryPairOfCodesMultipliesExactly) {
  // Row i of A is code i in every place; so is row j of B: C[i, j] = K * value(i) * value(j).
  const std::int64_t k = 5;
  const Operand a = make_operand(fp4(Granularity::per_row(), ScaleFormat::None), 16, k, 1);
  const Operand b = make_operand(fp4(Granularity::per_row(), ScaleFormat::None), 16, k, 1);
  for (std::uint8_t code = 0; code < 16; ++code) {
    for (std::int64_t i = 0; i < k; ++i) {
      set_code(a, code, i, code);
      set_code(b, code, i, code);
    }
  }
  const std::vector<float> c = product({a.q}, {b.q}, {16, 16, k});
  for (std::uint8_t i = 0; i < 16; ++i) {
    for (std::uint8_t j = 0; j < 16; ++j) {
      EXPECT_EQ(c[i * 16u + j], static_cast<float>(k) * e2m1_decode(i) * e2m1_decode(j)) << int{i} << " x " << int{j};
    }
  }
}

TEST(GemmInt8, LargestMagnitudesOfAnySignPatternDoNotSaturate) {
  // Rows: all +6, all -6, alternating, pairs, halves: the sums an int16 intermediate would clip.
  const std::int64_t k = 8192;
  const Operand a = make_operand(fp4(Granularity::per_row(), ScaleFormat::None), 5, k, 1);
  for (std::int64_t i = 0; i < k; ++i) {
    set_code(a, 0, i, 7);
    set_code(a, 1, i, 15);
    set_code(a, 2, i, i % 2 == 0 ? 7 : 15);
    set_code(a, 3, i, i % 4 < 2 ? 7 : 15);
    set_code(a, 4, i, i < k / 2 ? 7 : 15);
  }
  const std::vector<float> c = product({a.q}, {a.q}, {5, 5, k});
  const float most = 36.0f * static_cast<float>(k);
  const float expected[5][5] = {
      {most, -most, 0, 0, 0}, {-most, most, 0, 0, 0}, {0, 0, most, 0, 0}, {0, 0, 0, most, 0}, {0, 0, 0, 0, most}};
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 5; ++j) EXPECT_EQ(c[i * 5 + j], expected[i][j]) << i << ", " << j;
  }
}

TEST(GemmInt8, EqualsTheExactSumForEveryShapeAndStorageOrder) {
  unsigned seed = 100;
  for (const Extent& s : kExtents) {
    for (const Order& order : kOrders) {
      SCOPED_TRACE(fmt::format("{}x{}x{} transposed {} {} seed {}", s.m, s.n, s.k, order.a_transposed,
                               order.b_transposed, ++seed));
      const Operand a = stored(fp4(outer_scales(order.a_transposed)), s.m, s.k, order.a_transposed, seed);
      const Operand b = stored(fp4(outer_scales(order.b_transposed)), s.n, s.k, order.b_transposed, seed + 1000);
      expect_exact_int8({a.q, order.a_transposed}, {b.q, order.b_transposed}, s);
    }
  }
}

TEST(GemmInt8, TakesTensorScalesRowBlocksAndFoldedScales) {
  const Extent s{40, 50, 70};
  OperandSpec tensor = fp4(Granularity::per_tensor());
  tensor.tensor_scale = 0.3f;
  const Operand a = make_operand(fp4(Granularity{16, 0}, ScaleFormat::E8M0), s.m, s.k, 1);
  const Operand b = make_operand(tensor, s.n, s.k, 2);
  expect_exact_int8({a.q}, {b.q}, s);
  // Scales along the contraction, but folded into the other operand: codes only.
  const Operand folded = make_operand(fp4(Granularity::per_column()), s.n, s.k, 3);
  expect_exact_int8({a.q}, {folded.q, false, true}, s);
  expect_exact_int8({folded.q, false, true}, {a.q}, {s.n, s.m, s.k});
}

TEST(GemmInt8, Int4AndE3M0CodesAreIntegersToo) {
  const Extent s{35, 66, 130};
  const ElementFormat formats[] = {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0};
  unsigned seed = 1;
  for (const ElementFormat left : formats) {
    for (const ElementFormat right : formats) {
      for (const Order& order : kOrders) {
        SCOPED_TRACE(fmt::format("elements {} {} transposed {} {} seed {}", static_cast<int>(left),
                                 static_cast<int>(right), order.a_transposed, order.b_transposed, ++seed));
        OperandSpec x = fp4(outer_scales(order.a_transposed));
        OperandSpec y = fp4(Granularity::per_tensor());
        x.element = left;
        y.element = right;
        const Operand a = stored(x, s.m, s.k, order.a_transposed, seed);
        const Operand b = stored(y, s.n, s.k, order.b_transposed, seed + 1000);
        expect_exact_int8({a.q, order.a_transposed}, {b.q, order.b_transposed}, s);
      }
    }
  }
}

TEST(GemmInt8, AScaleOfTheSecondLevelThatCoversItsRowIsAnOuterScale) {
  const Extent s{20, 30, 16};
  OperandSpec spec = fp4(Granularity::block(1, 16), ScaleFormat::UE4M3);
  spec.outer = 128;
  const Operand a = make_operand(spec, s.m, s.k, 1);
  const Operand b = make_operand(spec, s.n, s.k, 2);
  expect_exact_int8({a.q}, {b.q}, s);
}

// --- Every path against the oracle. ---

TEST(GemmPaths, IntegerValuedProductsAreExactForEveryShapeAndStorageOrder) {
  unsigned seed = 1;
  for (const ElementFormat element : {ElementFormat::F32, ElementFormat::BF16}) {
    for (const Extent& s : kExtents) {
      for (const Order& order : kOrders) {
        SCOPED_TRACE(fmt::format("element {} {}x{}x{} transposed {} {} seed {}", static_cast<int>(element), s.m, s.n,
                                 s.k, order.a_transposed, order.b_transposed, ++seed));
        const Operand a = stored(values(element, true), s.m, s.k, order.a_transposed, seed);
        const Operand b = stored(values(element, true), s.n, s.k, order.b_transposed, seed + 1000);
        const GemmOperand x{a.q, order.a_transposed};
        const GemmOperand y{b.q, order.b_transposed};
        const Oracle o = naive(x, y, s);
        const std::vector<float> c = product(x, y, s);
        for (std::size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], o.sum[i]) << i;
      }
    }
  }
}

TEST(GemmPaths, AnyTwoFormatsMultiplyToWithinRounding) {
  const Extent s{37, 45, 150};
  OperandSpec nvfp4 = fp4(Granularity::block(1, 16), ScaleFormat::UE4M3);
  nvfp4.tensor_scale = 0.37f;
  OperandSpec released = fp4(Granularity::per_column());
  released.powers_of_two = true;
  OperandSpec e4m3 = fp4(Granularity::per_tensor());
  e4m3.element = ElementFormat::E4M3;
  OperandSpec e5m2 = fp4(Granularity::block(1, 128));
  e5m2.element = ElementFormat::E5M2;
  OperandSpec double_block = nvfp4;
  double_block.outer = 128;
  OperandSpec mxfp8 = fp4(Granularity::block(1, 32), ScaleFormat::E8M0);
  mxfp8.element = ElementFormat::E4M3;
  OperandSpec int4 = fp4(Granularity::block(1, 32));
  int4.element = ElementFormat::Int4;
  OperandSpec e3m0 = fp4(Granularity::block(1, 32));
  e3m0.element = ElementFormat::E3M0;
  const OperandSpec specs[] = {values(ElementFormat::F32),
                               values(ElementFormat::BF16),
                               double_block,
                               mxfp8,
                               int4,
                               e3m0,
                               fp4(Granularity::per_row()),
                               fp4(Granularity::per_column()),
                               fp4(Granularity::block(1, 32), ScaleFormat::E8M0),
                               nvfp4,
                               fp4(Granularity::block(16, 16), ScaleFormat::UE4M3),
                               fp4(Granularity::block(16, 1), ScaleFormat::E8M0),
                               released,
                               e4m3,
                               e5m2};
  unsigned seed = 1;
  for (std::size_t i = 0; i < std::size(specs); ++i) {
    for (std::size_t j = 0; j < std::size(specs); ++j) {
      const Order order = kOrders[(i + 3 * j) % 4];
      SCOPED_TRACE(
          fmt::format("specs {} {} transposed {} {} seed {}", i, j, order.a_transposed, order.b_transposed, ++seed));
      const Operand a = stored(specs[i], s.m, s.k, order.a_transposed, seed);
      const Operand b = stored(specs[j], s.n, s.k, order.b_transposed, seed + 1000);
      const GemmOperand x{a.q, order.a_transposed};
      const GemmOperand y{b.q, order.b_transposed};
      expect_close(product(x, y, s), naive(x, y, s), s.k);
    }
  }
}

TEST(GemmPaths, LongContractionsAndSeveralPanelsOfColumnsAreCovered) {
  // Packed B takes more than one 16 MiB panel in F32.
  const Extent s{3, 1100, 8192};
  for (const ElementFormat element : {ElementFormat::F32, ElementFormat::BF16}) {
    const Operand a = make_operand(values(element, true), s.m, s.k, 1);
    const Operand b = make_operand(values(element, true), s.n, s.k, 2);
    const Oracle o = naive({a.q}, {b.q}, s);
    const std::vector<float> c = product({a.q}, {b.q}, s);
    for (std::size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], o.sum[i]) << i;
  }
}

TEST(GemmPaths, NothingIsReadOfTheEmptyHalfOfAnOddLastByte) {
  const Extent s{9, 10, 21};
  Operand a = make_operand(fp4(Granularity::per_row()), s.m, s.k, 1);
  const Operand b = make_operand(fp4(Granularity::per_row()), s.n, s.k, 2);
  const std::vector<float> clean = product({a.q}, {b.q}, s);
  for (std::int64_t r = 0; r < s.m; ++r) a.q.codes.data<std::uint8_t>()[r * a.q.code_row_bytes() + s.k / 2] |= 0xF0;
  EXPECT_EQ(product({a.q}, {b.q}, s), clean);
}

// --- C. ---

TEST(GemmOutput, AddAddsToWhatIsThereAndBf16RoundsOnce) {
  const Extent s{66, 70, 96};
  const OperandSpec specs[] = {fp4(Granularity::per_row()), values(ElementFormat::BF16), values(ElementFormat::F32)};
  for (const OperandSpec& spec : specs) {
    SCOPED_TRACE(static_cast<int>(spec.element));
    const Operand a = make_operand(spec, s.m, s.k, 1);
    const Operand b = make_operand(spec, s.n, s.k, 2);
    const std::vector<float> p = product({a.q}, {b.q}, s);
    const Operand before = make_operand(values(ElementFormat::F32), s.m, s.n, 3);
    const auto* old = before.q.codes.data<float>();
    const std::size_t n = p.size();
    Arena arena;

    std::vector<float> sum(old, old + n);
    gemm({a.q}, {b.q}, Tensor::of(sum.data(), {s.m, s.n}), Accumulate::Add, arena);
    std::vector<bf16> rounded(n);
    gemm({a.q}, {b.q}, Tensor::of(rounded.data(), {s.m, s.n}), Accumulate::Overwrite, arena);
    std::vector<bf16> rounded_sum(n);
    for (std::size_t i = 0; i < n; ++i) rounded_sum[i] = bf16_encode(old[i]);
    gemm({a.q}, {b.q}, Tensor::of(rounded_sum.data(), {s.m, s.n}), Accumulate::Add, arena);
    for (std::size_t i = 0; i < n; ++i) {
      ASSERT_EQ(sum[i], old[i] + p[i]) << i;
      ASSERT_EQ(rounded[i].bits, bf16_encode(p[i]).bits) << i;
      ASSERT_EQ(rounded_sum[i].bits, bf16_encode(bf16_round(old[i]) + p[i]).bits) << i;
    }
  }
}

TEST(GemmOutput, AnEmptyContractionGivesZeroOrLeavesC) {
  Arena arena;
  const OwnedTensor a(DType::F32, {3, 0});
  const OwnedTensor b(DType::F32, {2, 0});
  QTensor qa = QTensor::view(a);
  QTensor qb = QTensor::view(b);
  qa.rows = 3;  // a matrix without columns cannot tell its rows
  qb.rows = 2;
  std::vector<float> c(6, 5.0f);
  gemm({qa}, {qb}, Tensor::of(c.data(), {3, 2}), Accumulate::Add, arena);
  EXPECT_EQ(c, std::vector<float>(6, 5.0f));
  gemm({qa}, {qb}, Tensor::of(c.data(), {3, 2}), Accumulate::Overwrite, arena);
  EXPECT_EQ(c, std::vector<float>(6, 0.0f));
}

TEST(GemmOutput, AnEmptyProductTouchesNothing) {
  Arena arena;
  const Operand a = make_operand(fp4(Granularity::per_row()), 0, 8, 1);
  const Operand b = make_operand(fp4(Granularity::per_row()), 4, 8, 2);
  float none = 7;
  EXPECT_NO_THROW(gemm({a.q}, {b.q}, Tensor::of(&none, {0, 4}), Accumulate::Overwrite, arena));
  EXPECT_NO_THROW(gemm({b.q}, {a.q}, Tensor::of(&none, {4, 0}), Accumulate::Overwrite, arena));
  EXPECT_EQ(none, 7);
}

TEST(GemmOutput, ScratchIsGivenBack) {
  Arena arena;
  const Operand a = make_operand(fp4(Granularity::per_row()), 65, 40, 1);
  std::vector<float> c(65 * 65);
  gemm({a.q}, {a.q}, Tensor::of(c.data(), {65, 65}), Accumulate::Overwrite, arena);
  EXPECT_EQ(arena.mark().block, 0u);
  EXPECT_EQ(arena.mark().offset, 0u);
  EXPECT_GT(arena.peak_bytes(), 0u);
}

// --- Threads. ---

TEST(GemmThreads, OneToFourThreadsAndACallFromInsideAParallelRegionGiveTheSameBits) {
  const Extent s{200, 600, 333};
  OperandSpec block = fp4(Granularity::block(1, 16), ScaleFormat::UE4M3);
  block.tensor_scale = 0.7f;
  const OperandSpec specs[] = {fp4(Granularity::per_row()), block, values(ElementFormat::BF16),
                               values(ElementFormat::F32)};
  for (const OperandSpec& spec : specs) {
    for (const Order& order : kOrders) {
      SCOPED_TRACE(fmt::format("element {} transposed {} {}", static_cast<int>(spec.element), order.a_transposed,
                               order.b_transposed));
      const Operand a = stored(spec, s.m, s.k, order.a_transposed, 1);
      const Operand b = stored(spec, s.n, s.k, order.b_transposed, 2);
      const GemmOperand x{a.q, order.a_transposed};
      const GemmOperand y{b.q, order.b_transposed};
      const auto on_threads = [&](int count) {
        const testing::Threads threads(count);
        return product(x, y, s);
      };
      const std::vector<float> one = on_threads(1);
      for (const int count : {2, 3, 4}) {
        const std::vector<float> many = on_threads(count);
        ASSERT_EQ(std::memcmp(one.data(), many.data(), one.size() * sizeof(float)), 0) << count << " threads";
      }
      std::vector<float> nested[2];
#pragma omp parallel num_threads(2)
      nested[omp_get_thread_num()] = product(x, y, s);
      ASSERT_EQ(std::memcmp(one.data(), nested[0].data(), one.size() * sizeof(float)), 0);
    }
  }
}

// --- Which path. ---

TEST(GemmPath, CodesWithOuterScalesAreMultipliedAsIntegers) {
  const Operand rows = make_operand(fp4(Granularity::per_row()), 8, 32, 1);
  const Operand columns = make_operand(fp4(Granularity::per_column()), 8, 32, 2);
  const Operand whole = make_operand(fp4(Granularity::per_tensor()), 8, 32, 3);
  EXPECT_EQ(gemm_path({rows.q}, {whole.q}), GemmPath::Int8);
  EXPECT_EQ(gemm_path({columns.q, true}, {columns.q, true}), GemmPath::Int8);
  EXPECT_EQ(gemm_path({rows.q}, {columns.q, false, true}), GemmPath::Int8);
  EXPECT_NE(gemm_path({rows.q}, {columns.q}), GemmPath::Int8) << "a scale a column varies along the contraction";
  EXPECT_NE(gemm_path({rows.q, true}, {columns.q, true}), GemmPath::Int8);
}

TEST(GemmPath, ABlockAsWideAsTheContractionIsAnOuterScale) {
  const Operand a = make_operand(fp4(Granularity::block(1, 32), ScaleFormat::E8M0), 8, 32, 1);
  EXPECT_EQ(gemm_path({a.q}, {a.q}), GemmPath::Int8);
  const Operand b = make_operand(fp4(Granularity::block(1, 32), ScaleFormat::E8M0), 8, 33, 1);
  EXPECT_NE(gemm_path({b.q}, {b.q}), GemmPath::Int8);
}

TEST(GemmPath, AContractionTooLongForInt32IsNotMultipliedAsIntegers) {
  QTensor q;
  q.element = ElementFormat::E2M1;
  q.rows = 1;
  q.cols = (std::int64_t{1} << 31) / 144;
  EXPECT_EQ(gemm_path({q}, {q}), GemmPath::Int8);
  ++q.cols;
  EXPECT_NE(gemm_path({q}, {q}), GemmPath::Int8);
}

TEST(GemmPath, WhatIsExactInBf16TakesTheBf16InstructionsWhereThereAreAny) {
  const GemmPath fast = cpu::native_bf16() ? GemmPath::Bf16 : GemmPath::F32;
  const Operand bf = make_operand(values(ElementFormat::BF16), 4, 64, 1);
  const Operand f32 = make_operand(values(ElementFormat::F32), 4, 64, 1);
  OperandSpec spec = fp4(Granularity::per_tensor());
  spec.element = ElementFormat::E4M3;
  const Operand e4m3 = make_operand(spec, 4, 64, 1);
  const Operand mxfp4 = make_operand(fp4(Granularity::block(1, 32), ScaleFormat::E8M0), 4, 64, 1);
  const Operand nvfp4 = make_operand(fp4(Granularity::block(1, 16), ScaleFormat::UE4M3), 4, 64, 1);
  const Operand block_f32 = make_operand(fp4(Granularity::block(1, 16), ScaleFormat::F32), 4, 64, 1);
  OperandSpec pow2 = fp4(Granularity::per_column());
  pow2.powers_of_two = true;
  const Operand released = make_operand(pow2, 4, 64, 1);
  OperandSpec eight_bits = fp4(Granularity::block(1, 32), ScaleFormat::E8M0);
  eight_bits.element = ElementFormat::E5M2;
  const Operand mxfp8 = make_operand(eight_bits, 4, 64, 1);
  OperandSpec double_block = fp4(Granularity::block(1, 16), ScaleFormat::UE4M3);
  double_block.outer = 32;
  const Operand nvfp4_f32 = make_operand(double_block, 4, 64, 1);
  for (const Operand* x : {&bf, &e4m3, &mxfp4, &nvfp4, &released, &mxfp8}) {
    EXPECT_EQ(gemm_path({bf.q}, {x->q}), fast);
    EXPECT_EQ(gemm_path({x->q}, {e4m3.q}), fast);
    EXPECT_EQ(gemm_path({x->q}, {f32.q}), GemmPath::F32);
  }
  for (const Operand* x : {&bf, &e4m3, &mxfp8, &released}) {
    EXPECT_EQ(gemm_path({block_f32.q}, {x->q}), GemmPath::F32);
    EXPECT_EQ(gemm_path({nvfp4_f32.q}, {x->q}), GemmPath::F32);
  }
}

TEST(GemmPath, FourBitOperandsWithBlocksOfSixteenOrMoreAreSummedByBlock) {
  const auto operand = [](ElementFormat element, Granularity granularity, ScaleFormat format, std::int64_t outer = 0) {
    OperandSpec spec = fp4(granularity, format);
    spec.element = element;
    spec.outer = outer;
    return make_operand(spec, 96, 96, 1);
  };
  const Operand mxfp4 = operand(ElementFormat::E2M1, Granularity::block(1, 32), ScaleFormat::E8M0);
  const Operand nvfp4 = operand(ElementFormat::E2M1, Granularity::block(1, 16), ScaleFormat::UE4M3);
  const Operand nvfp4_f32 = operand(ElementFormat::E2M1, Granularity::block(1, 16), ScaleFormat::UE4M3, 48);
  const Operand square = operand(ElementFormat::E2M1, Granularity::block(16, 16), ScaleFormat::UE4M3);
  const Operand square_f32 = operand(ElementFormat::E2M1, Granularity::block(32, 32), ScaleFormat::F32);
  const Operand rows = operand(ElementFormat::E2M1, Granularity::per_row(), ScaleFormat::F32);
  const Operand int4 = operand(ElementFormat::Int4, Granularity::block(1, 48), ScaleFormat::F32);
  const Operand e3m0 = operand(ElementFormat::E3M0, Granularity::per_tensor(), ScaleFormat::F32);
  const Operand e3m0_blocks = operand(ElementFormat::E3M0, Granularity::block(1, 32), ScaleFormat::F32);
  const Operand narrow = operand(ElementFormat::E2M1, Granularity::block(1, 8), ScaleFormat::UE4M3);
  const Operand columns = operand(ElementFormat::E2M1, Granularity::per_column(), ScaleFormat::F32);
  const Operand e4m3 = operand(ElementFormat::E4M3, Granularity::per_row(), ScaleFormat::F32);

  const Operand* by_block[] = {&mxfp4, &nvfp4, &nvfp4_f32, &square, &square_f32, &int4};
  for (const Operand* x : by_block) {
    for (const Operand* y : by_block) EXPECT_EQ(gemm_path({x->q}, {y->q}), GemmPath::Int8Block);
    EXPECT_EQ(gemm_path({x->q}, {rows.q}), GemmPath::Int8Block);
    EXPECT_EQ(gemm_path({e3m0.q}, {x->q}), GemmPath::Int8Block);
    EXPECT_NE(gemm_path({x->q}, {narrow.q}), GemmPath::Int8Block) << "a scale varies within sixteen elements";
    EXPECT_NE(gemm_path({x->q}, {columns.q}), GemmPath::Int8Block);
    EXPECT_NE(gemm_path({x->q}, {e4m3.q}), GemmPath::Int8Block);
    EXPECT_NE(gemm_path({x->q}, {e3m0_blocks.q, true}), GemmPath::Int8Block) << "scales of one row each";
  }
  EXPECT_EQ(gemm_path({rows.q}, {square.q, true}), GemmPath::Int8Block);
  EXPECT_EQ(gemm_path({columns.q, true}, {square.q, true}), GemmPath::Int8Block);
  EXPECT_NE(gemm_path({rows.q}, {nvfp4.q, true}), GemmPath::Int8Block) << "a scale a row varies along the contraction";
  EXPECT_NE(gemm_path({e3m0.q}, {e3m0_blocks.q}), GemmPath::Int8Block) << "products too large for int16 sums";
}

TEST(GemmPath, Bf16InputsOfTheBf16PathLoseNothing) {
  // Every code under every normal UE4M3 scale: with one-hot B the product returns A's values, exactly.
  const std::int64_t k = 16;
  Operand a = make_operand(fp4(Granularity::block(1, 8), ScaleFormat::UE4M3), 120, k, 1);
  for (std::int64_t r = 0; r < 120; ++r) {
    for (std::int64_t c = 0; c < k; ++c) set_code(a, r, c, static_cast<std::uint8_t>(c));
    for (std::int64_t block = 0; block < 2; ++block) {
      a.q.scales.data<std::uint8_t>()[r * 2 + block] = static_cast<std::uint8_t>(7 + r);
    }
  }
  OwnedTensor identity(DType::BF16, {k, k});
  for (std::int64_t i = 0; i < k; ++i) identity.view().data<bf16>()[i * k + i] = bf16_encode(1.0f);
  const QTensor b = QTensor::view(identity);
  const std::vector<float> c = product({a.q}, {b}, {120, k, k});
  for (std::int64_t r = 0; r < 120; ++r) {
    for (std::int64_t i = 0; i < k; ++i)
      ASSERT_EQ(c[static_cast<std::size_t>(r * k + i)], testing::value(a.q, r, i)) << r << ", " << i;
  }
}

// --- Contract. ---

TEST(GemmContract, MismatchedShapesAndTypesThrow) {
  Arena arena;
  const Operand a = make_operand(fp4(Granularity::per_row()), 4, 8, 1);
  const Operand b = make_operand(fp4(Granularity::per_row()), 6, 8, 2);
  const Operand longer = make_operand(fp4(Granularity::per_row()), 6, 10, 3);
  std::vector<float> c(64);
  const auto call = [&](const GemmOperand& x, const GemmOperand& y, const Tensor& out) {
    gemm(x, y, out, Accumulate::Overwrite, arena);
  };
  EXPECT_NO_THROW(call({a.q}, {b.q}, Tensor::of(c.data(), {4, 6})));
  EXPECT_THROW(call({a.q}, {longer.q}, Tensor::of(c.data(), {4, 6})), InternalError);
  EXPECT_THROW(call({a.q}, {b.q, true}, Tensor::of(c.data(), {4, 8})), InternalError);
  EXPECT_THROW(call({a.q}, {b.q}, Tensor::of(c.data(), {6, 4})), InternalError);
  EXPECT_THROW(call({a.q}, {b.q}, Tensor::of(c.data(), {24})), InternalError);
  EXPECT_THROW(call({a.q}, {b.q}, Tensor(c.data(), DType::I32, {4, 6})), InternalError);
}

}  // namespace
}  // namespace nibble
