// MXFP4 by MXFP4 through FP8 tensor cores: what is exact, how far the rest may be off, and the blocks that E4M3 under
// one scale a row cannot hold.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "nibble/ops/gemm.h"
#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"
#include "tests/ops/operands.h"
#include "tests/quant/cuda_qtensor.h"

namespace nibble {
namespace {

using testing::Extent;
using testing::filled;
using testing::make_operand;
using testing::naive;
using testing::Operand;
using testing::OperandSpec;
using testing::Oracle;
using testing_support::doubles;
using testing_support::expect_close;
using testing_support::expect_same_bits;
using testing_support::GpuQTensor;
using testing_support::on_cpu;
using testing_support::on_gpu;
using testing_support::random_tensor;

/// What a sum may be off by, of sum |a b| (ops/gemm.h).
constexpr double kBound = 0x1p-6;

/// Extents: K of several blocks, the last one whole, of one, or of some elements; N in sixteens and not; rows for a
/// warp, for a thread block, and longer than one holds.
constexpr Extent kExtents[] = {{1, 16, 64},   {5, 1, 33},     {3, 17, 100},  {64, 64, 128}, {70, 48, 1000},
                               {33, 130, 96}, {40, 80, 2048}, {17, 32, 357}, {9, 16, 5632}, {16, 5, 4112},
                               {3, 2, 32800}, {2, 16, 33001}, {257, 144, 64}};

/// The scale byte of a block.
using Scales = std::function<int(std::int64_t row, std::int64_t block, std::mt19937& random)>;

/// Random codes under the given scales.
Operand mxfp4(std::int64_t rows, std::int64_t k, unsigned seed, const Scales& scale) {
  OperandSpec spec;
  spec.scale_format = ScaleFormat::E8M0;
  spec.granularity = Granularity::block(1, 32);
  Operand x = make_operand(spec, rows, k, seed);
  std::mt19937 random(seed + 77);
  const std::int64_t blocks = x.q.scale_cols();
  for (std::int64_t i = 0; i < x.q.scales.numel(); ++i) {
    x.q.scales.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(scale(i / blocks, i % blocks, random));
  }
  return x;
}

Scales spread(int steps, int top = 130) {
  return [=](std::int64_t, std::int64_t, std::mt19937& random) {
    return top - static_cast<int>(random() % static_cast<unsigned>(steps + 1));
  };
}

/// Like `usual`, but every `every`-th row, from `first` on, has a block 2^-20 of its other ones.
Scales far_rows(std::int64_t every, std::int64_t first = 0, const Scales& usual = spread(1)) {
  return [=](std::int64_t row, std::int64_t block, std::mt19937& random) {
    const int scale = usual(row, block, random);
    return row % every == first % every && block == 1 ? scale - 20 : scale;
  };
}

std::int64_t multiples(std::int64_t n, std::int64_t every, std::int64_t first = 0) {
  return (n - first % every + every - 1) / every;
}

void set_block(const Operand& x, std::int64_t row, std::int64_t block, std::uint8_t code, int scale) {
  for (std::int64_t c = 32 * block; c < std::min(x.q.cols, 32 * block + 32); ++c) set_code(x, row, c, code);
  x.q.scales.data<std::uint8_t>()[row * x.q.scale_cols() + block] = static_cast<std::uint8_t>(scale);
}

OwnedTensor gpu_gemm(const QTensor& a, const QTensor& b, const Tensor& before, Accumulate accumulate) {
  Arena scratch(Device::Cuda, std::size_t{1} << 20);
  const GpuQTensor p(a);
  const GpuQTensor q(b);
  EXPECT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Fp8);
  const OwnedTensor c = on_gpu(before);
  gemm({p.q}, {q.q}, c, accumulate, scratch);
  EXPECT_EQ(scratch.mark().block, 0u);
  EXPECT_EQ(scratch.mark().offset, 0u);
  return on_cpu(c);
}

OwnedTensor gpu_gemm(const Operand& a, const Operand& b) {
  return gpu_gemm(a.q, b.q, filled(DType::F32, {a.q.rows, b.q.rows, a.q.cols}, NAN), Accumulate::Overwrite);
}

OwnedTensor cpu_gemm(const Operand& a, const Operand& b) {
  Arena scratch;
  OwnedTensor c(DType::F32, {a.q.rows, b.q.rows});
  gemm({a.q}, {b.q}, c, Accumulate::Overwrite, scratch);
  return c;
}

/// Runs f and expects that of all rows that went through FP8 in it, so many had blocks that were multiplied apart.
template <class F>
void expect_rows(std::int64_t by_block, std::int64_t rows, F f) {
  const MxRowCount before = mx_row_count(Device::Cuda);
  f();
  const MxRowCount after = mx_row_count(Device::Cuda);
  EXPECT_EQ(after.by_block - before.by_block, by_block);
  EXPECT_EQ(after.rows - before.rows, rows);
}

struct Exponents {
  int low = 255;
  int high = 0;
  bool far() const { return high - low > 14; }
};

/// The scale bytes of a row's blocks that are not zeros.
Exponents exponents(const QTensor& q, std::int64_t row) {
  Exponents e;
  for (std::int64_t c = 0; c < q.cols; ++c) {
    if (testing::element_value(q, row, c) == 0) continue;
    const int scale = q.scales.data<std::uint8_t>()[row * q.scale_cols() + c / 32];
    e.low = std::min(e.low, scale);
    e.high = std::max(e.high, scale);
  }
  return e;
}

bool far(const Operand& x, std::int64_t row) { return exponents(x.q, row).far(); }

/// u of the header for each row, the largest over its stretches, of the blocks in range.
std::vector<double> largest_u(const QTensor& q) {
  std::vector<double> u(static_cast<std::size_t>(q.rows));
  for (std::int64_t r = 0; r < q.rows; ++r) {
    const int high = exponents(q, r).high;
    for (std::int64_t first = 0; first < q.cols; first += 128) {
      double squares = 0;
      double least = INFINITY;
      for (std::int64_t c = first; c < std::min(q.cols, first + 128); ++c) {
        if (q.scales.data<std::uint8_t>()[r * q.scale_cols() + c / 32] < high - 14) continue;
        const double v = testing::value(q, r, c);
        squares += v * v;
        if (v != 0) least = std::min<double>(least, testing::block_scale(q, r, c));
      }
      if (squares > 0)
        u[static_cast<std::size_t>(r)] = std::max(u[static_cast<std::size_t>(r)], squares / (least * least));
    }
  }
  return u;
}

/// Elements against the oracle: of rows in range, equal where the header promises it; of others whose blocks in range
/// it promises that for, up to the roundings of F32 sums; within its bound elsewhere. Returns how many of the former
/// were promised to be exact.
std::int64_t expect_product(const Operand& a, const Operand& b, const Tensor& c) {
  const Oracle o = naive({a.q}, {b.q}, {a.q.rows, b.q.rows, a.q.cols});
  const std::vector<double> u_a = largest_u(a.q);
  const std::vector<double> u_b = largest_u(b.q);
  std::int64_t exact = 0;
  for (std::int64_t m = 0; m < a.q.rows; ++m) {
    const bool far_m = far(a, m);
    for (std::int64_t n = 0; n < b.q.rows; ++n) {
      const std::int64_t i = m * b.q.rows + n;
      const auto at = static_cast<std::size_t>(i);
      const double got = c.data<float>()[i];
      const bool apart = far_m || far(b, n);
      const bool exact_stretches =
          u_a[static_cast<std::size_t>(m)] < 4096 && u_b[static_cast<std::size_t>(n)] < 4096 && a.q.cols <= 8192;
      // F32 sums of the stretches are exact while they fit 24 bits.
      const bool promised =
          exact_stretches && !apart && static_cast<double>(static_cast<float>(o.sum[at])) == o.sum[at];
      exact += promised;
      const double bound = exact_stretches && apart ? 0x1p-20 : kBound;
      const double allowed = promised ? 0.0 : bound * o.magnitude[at];
      EXPECT_LE(std::fabs(got - o.sum[at]), allowed) << m << ", " << n << ": " << got << ", not " << o.sum[at];
      if (::testing::Test::HasFailure()) return exact;
    }
  }
  return exact;
}

TEST(CudaGemmMxfp4, ExponentsNextToEachOtherGiveTheExactSums) {
  NIBBLE_NEEDS_GPU();
  for (const Extent& s : kExtents) {
    SCOPED_TRACE(fmt::format("{}x{}x{}", s.m, s.n, s.k));
    const Operand a = mxfp4(s.m, s.k, 1, spread(1));
    const Operand b = mxfp4(s.n, s.k, 2, spread(1, 120));
    expect_rows(0, s.m + s.n, [&] {
      const std::int64_t exact = expect_product(a, b, gpu_gemm(a, b));
      if (s.k <= 2048) {
        EXPECT_GT(8 * exact, s.m * s.n) << "too few sums that the test is about";
      }
    });
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(CudaGemmMxfp4, QuantisedNormalValuesGiveTheExactSums) {
  NIBBLE_NEEDS_GPU();
  const Extent s{256, 192, 2048};
  Arena arena;
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::block(1, 32);
  spec.scale = ScaleRule::OcpFloor;
  const QTensor a = quantize(random_tensor(DType::F32, {s.m, s.k}, 1, 0x1p-12f), spec, {}, arena);
  const QTensor b = quantize(random_tensor(DType::F32, {s.n, s.k}, 2), spec, {}, arena);
  const Oracle o = naive({a}, {b}, s);
  const OwnedTensor c = gpu_gemm(a, b, filled(DType::F32, s, NAN), Accumulate::Overwrite);
  std::int64_t different = 0;
  for (std::int64_t i = 0; i < s.m * s.n; ++i)
    different += c.view().data<float>()[i] != o.sum[static_cast<std::size_t>(i)];
  EXPECT_EQ(different, 0);
}

TEST(CudaGemmMxfp4, EveryCodeIsExactAtEveryExponentInRange) {
  NIBBLE_NEEDS_GPU();
  // Row e of A: block 0 holds all codes at 2^-e, block 1 sixes at 1. B picks one column.
  const std::int64_t k = 64;
  const Operand a = mxfp4(15, k, 1, [](std::int64_t row, std::int64_t block, std::mt19937&) {
    return block == 0 ? 127 - static_cast<int>(row) : 127;
  });
  const Operand b = mxfp4(32, k, 2, [](std::int64_t, std::int64_t, std::mt19937&) { return 127; });
  for (std::int64_t r = 0; r < 15; ++r) {
    for (std::int64_t c = 0; c < k; ++c) set_code(a, r, c, c < 32 ? static_cast<std::uint8_t>(c % 16) : 7);
  }
  for (std::int64_t r = 0; r < 32; ++r) {
    for (std::int64_t c = 0; c < k; ++c) set_code(b, r, c, r == c ? 2 : 0);
  }
  const Oracle o = naive({a.q}, {b.q}, {15, 32, k});
  expect_rows(0, 15 + 32, [&] {
    const std::vector<double> c = doubles(gpu_gemm(a, b));
    for (std::size_t i = 0; i < c.size(); ++i) EXPECT_EQ(c[i], o.sum[i]) << i;
  });
}

TEST(CudaGemmMxfp4, WideExponentsStayWithinTheBound) {
  NIBBLE_NEEDS_GPU();
  for (const Extent& s : kExtents) {
    SCOPED_TRACE(fmt::format("{}x{}x{}", s.m, s.n, s.k));
    const Operand a = mxfp4(s.m, s.k, 3, spread(14));
    const Operand b = mxfp4(s.n, s.k, 4, spread(14, 127));
    expect_rows(0, s.m + s.n, [&] { expect_product(a, b, gpu_gemm(a, b)); });
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(CudaGemmMxfp4, OneLargeProductBeforeManySmallOnesStaysWithinTheBound) {
  NIBBLE_NEEDS_GPU();
  // What the accumulators lose most by: 96 products of one sign, each a little below the last bit of the first.
  const Extent s{15, 16, 128};
  const Operand a = mxfp4(s.m, s.k, 1, spread(0));
  const Operand b = mxfp4(s.n, s.k, 2, spread(0));
  for (std::int64_t block = 0; block < 4; ++block) {
    for (std::int64_t r = 0; r < s.m; ++r) set_block(a, r, block, 1, block == 0 ? 130 : 130 - static_cast<int>(r));
    for (std::int64_t r = 0; r < s.n; ++r) set_block(b, r, block, static_cast<std::uint8_t>(1 + r % 7), 130);
  }
  for (std::int64_t r = 0; r < s.m; ++r) {
    for (std::int64_t c = 0; c < 32; ++c) set_code(a, r, c, c == 0 ? 7 : 0);
  }
  expect_rows(0, s.m + s.n, [&] { expect_product(a, b, gpu_gemm(a, b)); });
}

TEST(CudaGemmMxfp4, BlocksOutOfRangeAreAddedApart) {
  NIBBLE_NEEDS_GPU();
  for (const Extent& s : kExtents) {
    // All rows; one in five of A, of B, of both; where one in five is not the first.
    for (const auto& [a_every, b_every] : {std::pair{1, 1}, {5, 1000}, {1000, 5}, {5, 5}, {1, 1000}, {1000, 1}}) {
      SCOPED_TRACE(fmt::format("{}x{}x{}, one of {}, {}", s.m, s.n, s.k, a_every, b_every));
      const std::int64_t first = a_every == 5 ? 3 : 0;
      const Operand a = mxfp4(s.m, s.k, 5, far_rows(a_every, first));
      const Operand b = mxfp4(s.n, s.k, 6, far_rows(b_every));
      std::int64_t far_ones = 0;  // a last block of one element may be zero
      for (std::int64_t r = 0; r < s.m; ++r) far_ones += far(a, r);
      for (std::int64_t r = 0; r < s.n; ++r) far_ones += far(b, r);
      if (s.k >= 64) {
        ASSERT_EQ(far_ones, multiples(s.m, a_every, first) + multiples(s.n, b_every));
      }
      expect_rows(far_ones, s.m + s.n, [&] { expect_product(a, b, gpu_gemm(a, b)); });
      if (::testing::Test::HasFailure()) return;
    }
  }
}

/// Blocks by their place among four: zeros, large, or so small beside a large one that they are left out.
enum class Kind : std::uint8_t { Zeros, Large, Small };

Operand of_kinds(std::int64_t rows, std::int64_t k, unsigned seed, const std::array<Kind, 4>& kinds,
                 std::int64_t every) {
  Operand x = mxfp4(rows, k, seed, [&](std::int64_t row, std::int64_t block, std::mt19937& random) {
    const bool small = kinds[static_cast<std::size_t>(block % 4)] == Kind::Small && row % every == 0;
    return small ? 130 - 15 - static_cast<int>(random() % 5) : 130;
  });
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      if (kinds[static_cast<std::size_t>(c / 32 % 4)] == Kind::Zeros) set_code(x, r, c, 0);
    }
  }
  return x;
}

TEST(CudaGemmMxfp4, WhatIsLeftOutIsAllThereIsOfSomeSums) {
  NIBBLE_NEEDS_GPU();
  // Zeros of B stand where A is large, so that large products hide nothing: small by large, large by small, small by
  // small, and all three. Rows of all kinds meet: listed in A, in B, in both, in neither.
  using enum Kind;
  const std::array<Kind, 4> of_a = {Large, Small, Small, Large};
  const std::array<Kind, 4> of_b[] = {{Zeros, Large, Zeros, Zeros},
                                      {Zeros, Zeros, Zeros, Small},
                                      {Zeros, Zeros, Small, Zeros},
                                      {Zeros, Large, Small, Small}};
  for (const Extent& s : {Extent{40, 70, 256}, {33, 48, 1000}, {18, 16, 5632}, {3, 17, 33001}}) {
    for (const auto& kinds : of_b) {
      for (const auto& [a_every, b_every] : {std::pair{1, 1}, {3, 1}, {1, 2}, {2, 3}}) {
        SCOPED_TRACE(fmt::format("{}x{}x{}, one of {}, {}", s.m, s.n, s.k, a_every, b_every));
        const Operand a = of_kinds(s.m, s.k, 24, of_a, a_every);
        // A large block in every row of B, in the first place, where A's is a zero for this.
        const Operand b = of_kinds(s.n, s.k, 25, kinds, b_every);
        for (std::int64_t r = 0; r < s.n; ++r) set_block(b, r, 0, 2, 130);
        for (std::int64_t r = 0; r < s.m; ++r) set_block(a, r, 0, 0, 0);
        const Oracle o = naive({a.q}, {b.q}, s);
        for (const bool swapped : {false, true}) {
          const OwnedTensor c = swapped ? gpu_gemm(b, a) : gpu_gemm(a, b);
          for (std::int64_t m = 0; m < s.m; ++m) {
            for (std::int64_t n = 0; n < s.n; ++n) {
              const auto at = static_cast<std::size_t>(m * s.n + n);
              const double got = c.view().data<float>()[swapped ? n * s.m + m : m * s.n + n];
              ASSERT_LE(std::fabs(got - o.sum[at]), 0x1p-18 * o.magnitude[at]) << m << ", " << n << ", " << swapped;
            }
          }
        }
      }
    }
  }
}

TEST(CudaGemmMxfp4, FourteenExponentsAreInRangeAndFifteenAreNot) {
  NIBBLE_NEEDS_GPU();
  for (const int top : {20, 127, 180, 200}) {
    const auto two = [&](int apart) {
      return mxfp4(4, 96, 1,
                   [=](std::int64_t, std::int64_t block, std::mt19937&) { return block == 1 ? top - apart : top; });
    };
    const Operand b = mxfp4(16, 96, 2, spread(1, 127));
    // 2^-60 to 2^60 are in range.
    const bool usable = top - 6 >= 127 - 60 && top - 6 <= 127 + 60;
    for (const int apart : {14, 15}) {
      const Operand a = two(apart);
      const bool in_range = usable && apart == 14;
      expect_rows(in_range ? 0 : 4, 20, [&] { expect_product(a, b, gpu_gemm(a, b)); });
    }
  }
}

TEST(CudaGemmMxfp4, ProductsAddToWhatIsThere) {
  NIBBLE_NEEDS_GPU();
  for (const Extent& s : {Extent{70, 96, 256}, {33, 50, 100}}) {
    const Operand a = mxfp4(s.m, s.k, 7, far_rows(6, 2, spread(1, 120)));
    const Operand b = mxfp4(s.n, s.k, 8, far_rows(9, 4, spread(1, 120)));
    const Oracle o = naive({a.q}, {b.q}, s);
    const GpuQTensor p(a.q);
    const GpuQTensor q(b.q);
    for (const DType dtype : {DType::F32, DType::BF16}) {
      SCOPED_TRACE(fmt::format("{}x{}x{} {}", s.m, s.n, s.k, dtype_name(dtype)));
      const OwnedTensor addend = on_gpu(random_tensor(dtype, {s.m, s.n}, 9));
      const std::vector<double> old = doubles(on_cpu(addend));
      const OwnedTensor in_place = on_gpu(addend);
      const OwnedTensor elsewhere = on_gpu(filled(dtype, s, NAN));
      Arena scratch(Device::Cuda, std::size_t{1} << 20);
      gemm({p.q}, {q.q}, in_place, Accumulate::Add, scratch);
      gemm_onto(addend, {p.q}, {q.q}, elsewhere, scratch);
      // To BF16 the library adds a product that it has rounded, or one that it has not, as its kernel has it.
      if (dtype == DType::F32) expect_same_bits(in_place, elsewhere, "the sum in place and elsewhere");
      const double rounding = dtype == DType::BF16 ? 0x1p-7 : 0x1p-22;
      for (const OwnedTensor* c : {&in_place, &elsewhere}) {
        const std::vector<double> got = doubles(on_cpu(*c));
        for (std::size_t i = 0; i < got.size(); ++i) {
          const double allowed = rounding * (std::fabs(old[i]) + std::fabs(o.sum[i])) + 0x1p-20 * o.magnitude[i];
          ASSERT_LE(std::fabs(got[i] - old[i] - o.sum[i]), allowed) << i;
        }
      }
    }
  }
}

TEST(CudaGemmMxfp4, TensorScalesOfHostAndDeviceMultiplyAllRows) {
  NIBBLE_NEEDS_GPU();
  const Extent s{40, 48, 224};
  Operand a = mxfp4(s.m, s.k, 10, far_rows(7));
  Operand b = mxfp4(s.n, s.k, 11, far_rows(8, 5));
  a.q.tensor_scale = 4.0f / 3.0f;
  b.q.tensor_scale = -0.3f;
  const OwnedTensor expected = cpu_gemm(a, b);
  const OwnedTensor got = gpu_gemm(a, b);
  expect_close(expected, got, 0x1p-20, "tensor scales of the host");
  GpuQTensor p(a.q);
  GpuQTensor q(b.q);
  p.put_tensor_scale_on_device();
  q.put_tensor_scale_on_device();
  const OwnedTensor c(DType::F32, {s.m, s.n}, Device::Cuda);
  Arena scratch(Device::Cuda, std::size_t{1} << 20);
  gemm({p.q}, {q.q}, c, Accumulate::Overwrite, scratch);
  expect_same_bits(got, c, "tensor scales of the device");
}

TEST(CudaGemmMxfp4, BlocksOfZerosHaveNoExponent) {
  NIBBLE_NEEDS_GPU();
  // The smallest scale, as quantisers leave it, and the largest; with codes of both signs of zero.
  const Extent s{32, 32, 160};
  const Operand a = mxfp4(s.m, s.k, 12, spread(1));
  const Operand b = mxfp4(s.n, s.k, 13, spread(1));
  for (std::int64_t r = 0; r < s.m; ++r) {
    set_block(a, r, r % 5, r % 2 == 0 ? 0 : 8, r % 3 == 0 ? 0 : 254);
    if (r == 30) {  // a row of nothing else
      for (std::int64_t block = 0; block < 5; ++block) set_block(a, r, block, 8, 0);
    }
  }
  expect_rows(0, s.m + s.n, [&] {
    const OwnedTensor c = gpu_gemm(a, b);
    expect_product(a, b, c);
    for (std::int64_t n = 0; n < s.n; ++n) EXPECT_EQ(c.view().data<float>()[30 * s.n + n], 0.0f);
  });
}

TEST(CudaGemmMxfp4, ScalesAtTheEndsOfTheFormat) {
  NIBBLE_NEEDS_GPU();
  const Extent s{8, 16, 96};
  // Rows of scales that no product of two F32 scales would survive, by rows at the other end, and by usual ones.
  for (const auto& [top_a, top_b] : {std::pair{0, 254}, {254, 0}, {3, 127}, {250, 30}, {254, 100}}) {
    SCOPED_TRACE(fmt::format("scales {} and {}", top_a, top_b));
    const auto constant = [](int scale) { return [=](std::int64_t, std::int64_t, std::mt19937&) { return scale; }; };
    const Operand a = mxfp4(s.m, s.k, 14, constant(top_a));
    const Operand b = mxfp4(s.n, s.k, 15, constant(top_b));
    // Small enough that (float(sum) * scale) stays finite whichever operand comes first.
    for (const Operand* x : {&a, &b}) {
      for (std::int64_t r = 0; r < x->q.rows; ++r) {
        for (std::int64_t c = 0; c < s.k; ++c) set_code(*x, r, c, c % 48 == r ? 1 : 0);
      }
    }
    const OwnedTensor expected = cpu_gemm(a, b);
    expect_same_bits(expected, gpu_gemm(a, b), "scales at the ends");
  }
}

TEST(CudaGemmMxfp4, ANaNScaleMakesItsRowNaNAndNoOther) {
  NIBBLE_NEEDS_GPU();
  const Extent s{20, 32, 128};
  const Operand a = mxfp4(s.m, s.k, 16, spread(1));
  const Operand b = mxfp4(s.n, s.k, 17, spread(1));
  set_block(a, 7, 2, 3, 255);
  set_block(b, 30, 0, 0, 255);  // zeros, too
  expect_rows(2, s.m + s.n, [&] {
    const OwnedTensor c = gpu_gemm(a, b);
    for (std::int64_t m = 0; m < s.m; ++m) {
      for (std::int64_t n = 0; n < s.n; ++n) {
        EXPECT_EQ(std::isnan(c.view().data<float>()[m * s.n + n]), m == 7 || n == 30) << m << ", " << n;
      }
    }
  });
}

TEST(CudaGemmMxfp4, TwoRunsGiveTheSameBits) {
  NIBBLE_NEEDS_GPU();
  const Extent s{256, 128, 8192};
  const Operand a = mxfp4(s.m, s.k, 18, far_rows(3, 0, spread(6)));
  const Operand b = mxfp4(s.n, s.k, 19, far_rows(4, 1, spread(6)));
  const OwnedTensor before = filled(DType::BF16, s, 1.0f);
  const OwnedTensor first = gpu_gemm(a.q, b.q, before, Accumulate::Add);
  for (int i = 0; i < 5; ++i) {
    expect_same_bits(first, gpu_gemm(a.q, b.q, before, Accumulate::Add), "a second run");
  }
}

TEST(CudaGemmMxfp4, ManyRowsOutOfRangeInLargeMatrices) {
  NIBBLE_NEEDS_GPU();
  // More tiles than warps, in both directions.
  const Extent s{1500, 2000, 160};
  const Operand a = mxfp4(s.m, s.k, 20, far_rows(2, 1, spread(1, 120)));
  const Operand b = mxfp4(s.n, s.k, 21, far_rows(3, 2, spread(1, 120)));
  OwnedTensor c;
  expect_rows(750 + 666, s.m + s.n, [&] { c = gpu_gemm(a, b); });
  expect_close(cpu_gemm(a, b), c, 0x1p-20, "a large product");
}

TEST(CudaGemmMxfp4, TheBf16PathIsTakenOnRequest) {
  NIBBLE_NEEDS_GPU();
  struct Restore {
    ~Restore() { set_mx_products(MxProducts::Fp8); }
  } restore;
  const Extent s{64, 48, 320};
  const Operand a = mxfp4(s.m, s.k, 22, far_rows(3));
  const Operand b = mxfp4(s.n, s.k, 23, spread(14));
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  ASSERT_EQ(mx_products(), MxProducts::Fp8);
  ASSERT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Fp8);
  set_mx_products(MxProducts::Bf16);
  ASSERT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Bf16);
  const OwnedTensor c(DType::F32, {s.m, s.n}, Device::Cuda);
  Arena scratch(Device::Cuda, std::size_t{1} << 20);
  expect_rows(0, 0, [&] { gemm({p.q}, {q.q}, c, Accumulate::Overwrite, scratch); });
  const Oracle o = naive({a.q}, {b.q}, s);
  const std::vector<double> got = doubles(on_cpu(c));
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_LE(std::fabs(got[i] - o.sum[i]), 0x1p-16 * o.magnitude[i]) << i;
}

TEST(CudaGemmMxfp4, OtherBlocksAndOrdersKeepTheirPaths) {
  NIBBLE_NEEDS_GPU();
  OperandSpec spec;
  spec.scale_format = ScaleFormat::E8M0;
  spec.granularity = Granularity::block(1, 32);
  const Operand a = make_operand(spec, 64, 64, 1);
  spec.granularity = Granularity::block(1, 16);
  const Operand narrow = make_operand(spec, 64, 64, 2);
  spec.granularity = Granularity::block(32, 32);
  const Operand square = make_operand(spec, 64, 64, 3);
  spec.granularity = Granularity::per_row();
  const Operand rows = make_operand(spec, 64, 64, 4);
  const GpuQTensor p(a.q);
  const GpuQTensor n(narrow.q);
  const GpuQTensor s(square.q);
  const GpuQTensor r(rows.q);
  EXPECT_EQ(gemm_path({p.q}, {p.q}), GemmPath::Fp8);
  EXPECT_EQ(gemm_path({p.q}, {n.q}), GemmPath::Bf16);
  EXPECT_EQ(gemm_path({p.q}, {s.q}), GemmPath::Bf16);
  EXPECT_EQ(gemm_path({p.q}, {r.q}), GemmPath::Bf16);
  EXPECT_EQ(gemm_path({p.q, true}, {p.q}), GemmPath::Bf16);
  EXPECT_EQ(gemm_path({p.q, true}, {p.q, true}), GemmPath::Bf16);
}

}  // namespace
}  // namespace nibble
