// Rows under quantiles of their own on the GPU: the CPU's bits at every width, where a kernel that keeps rows of BF16
// in registers takes them and where it does not, in every form that it stores, and for contents that its search for the
// quantiles finds awkward.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using testing_support::expect_same_bits;
using testing_support::on_cpu;
using testing_support::on_gpu;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// How a row is filled; each row of a matrix in another way.
enum class Contents {
  Normal,
  OutlierColumns,
  OutlierRun,
  AllEqual,
  EqualButFew,
  ZeroButFew,
  FewHuge,
  TwoValues,
  FewValues,
  Ascending,
  Descending,
  ZerosOfBothSigns,
  MostlyZero,
  Positive,
  Negative,
  Relu,
  HeavyTail,
  EveryExponent,
  Subnormal,
  Huge,
  SomeInfinite,
  SomeNaN,
  kAll
};

constexpr int kKinds = static_cast<int>(Contents::kAll);
constexpr int kFinite = static_cast<int>(Contents::SomeInfinite);  ///< kinds of finite numbers

float value_of(Contents contents, std::int64_t c, std::int64_t cols, std::mt19937_64& random, float unit) {
  const float normal = std::normal_distribution<float>()(random) * unit;
  const std::uint64_t dice = random() % 512;
  switch (contents) {
    case Contents::Normal: return normal;
    case Contents::OutlierColumns: return c % 97 == 5 ? 30 * normal : normal;
    case Contents::OutlierRun: return c < cols / 20 ? 50 * normal : normal;
    case Contents::AllEqual: return unit;
    case Contents::EqualButFew: return dice < 2 ? normal : -unit;
    case Contents::ZeroButFew: return dice < 2 ? normal : dice % 2 == 0 ? 0.0f : -0.0f;
    case Contents::FewHuge: return dice < 2 ? 1e6f * normal : normal;
    case Contents::TwoValues: return dice % 2 == 0 ? unit : -2 * unit;
    case Contents::FewValues: return (static_cast<float>(dice % 7) - 3) * unit;
    case Contents::Ascending: return static_cast<float>(c - cols / 2) * unit;
    case Contents::Descending: return static_cast<float>(cols / 2 - c) * unit;
    case Contents::ZerosOfBothSigns: return dice % 2 == 0 ? 0.0f : -0.0f;
    case Contents::MostlyZero: return dice < 490 ? (dice % 2 == 0 ? 0.0f : -0.0f) : normal;
    case Contents::Positive: return std::abs(normal);
    case Contents::Negative: return -std::abs(normal);
    case Contents::Relu: return std::max(normal, 0.0f);
    case Contents::HeavyTail: return normal * std::exp(3 * std::normal_distribution<float>()(random));
    case Contents::EveryExponent: {
      auto bits = static_cast<std::uint32_t>(random());
      if ((bits & 0x7F80'0000u) == 0x7F80'0000u) bits &= 0xBFFF'FFFFu;
      float value = 0;
      std::memcpy(&value, &bits, sizeof(value));
      return value;
    }
    case Contents::Subnormal: return normal / unit * 1e-39f;
    case Contents::Huge: return normal / unit * 5e37f;
    case Contents::SomeInfinite: return dice == 0 ? kInfinity : dice == 1 ? -kInfinity : normal;
    case Contents::SomeNaN: return dice == 0 ? kNaN : dice == 1 ? -kNaN : dice == 2 ? kInfinity : normal;
    case Contents::kAll: break;
  }
  return 0;
}

/// Rows of all kinds in turn, each in a unit of its own; `first` says which kind comes first.
OwnedTensor rows_of_all(DType dtype, std::int64_t rows, std::int64_t cols, std::uint64_t first, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto contents = static_cast<Contents>((first + static_cast<std::uint64_t>(r)) % kKinds);
    const float unit = std::exp(2 * std::normal_distribution<float>()(random));
    for (std::int64_t c = 0; c < cols; ++c) values.push_back(value_of(contents, c, cols, random, unit));
  }
  return reference::make_tensor(dtype, rows, cols, values);
}

/// Differences from infinite bounds are NaN, whose bits are not promised.
void expect_same_values(const Tensor& expected, const Tensor& got, const char* what) {
  ASSERT_EQ(expected.numel(), got.numel()) << what;
  const OwnedTensor a = on_cpu(expected);
  const OwnedTensor b = on_cpu(got);
  const float* p = a.view().data<float>();
  const float* q = b.view().data<float>();
  for (std::int64_t i = 0; i < a.view().numel(); ++i) {
    if (std::isnan(p[i]) && std::isnan(q[i])) continue;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(p[i]), std::bit_cast<std::uint32_t>(q[i]))
        << what << " at " << i << ": " << p[i] << " and " << q[i];
  }
}

void expect_same_residual(const CsrMatrix& want, const CsrMatrix& got) {
  ASSERT_EQ(want.defined(), got.defined());
  if (!want.defined()) return;
  expect_same_bits(want.row_begin, got.row_begin, "row_begin");
  const std::int64_t entries = want.row_begin.data<std::int32_t>()[want.rows];
  if (entries == 0) return;
  ASSERT_LE(entries, got.col.numel());
  const auto first = [=](const Tensor& part) { return Tensor(part.raw(), part.dtype(), {entries}, part.device()); };
  expect_same_bits(first(want.col), first(got.col), "residual columns");
  expect_same_values(first(want.value), first(got.value), "residual values");
}

OwnedTensor values_of(QTensor q) {
  q.residual = {};
  OwnedTensor out(DType::F32, {q.rows, q.cols}, q.codes.device());
  dequantize(q, out);
  return q.codes.device() == Device::Cuda ? on_cpu(out) : std::move(out);
}

/// Memory that the next tensors are taken from, filled: what a call leaves unwritten must not be an earlier call's.
void spoil(Arena& arena, std::int64_t bytes, std::uint8_t with) {
  const ArenaScope scope(arena);
  const std::vector<std::uint8_t> filling(static_cast<std::size_t>(bytes), with);
  copy(Tensor::of(filling.data(), {bytes}), arena.allocate(DType::U8, {bytes}));
}

void expect_same_on_gpu(const OwnedTensor& x, const QuantSpec& spec) {
  static Arena& gpu_arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before it
  const ArenaScope scope(gpu_arena);
  Arena arena;
  const OwnedTensor there = on_gpu(x);
  QuantizeContext context;
  context.random = {5, 6, 7};
  const QTensor want = quantize(x, spec, context, arena);
  spoil(gpu_arena, 6 * x.view().numel() + 4096, 0x5A);
  const QTensor got = quantize(there, spec, context, gpu_arena);
  ASSERT_EQ(want.scales.defined(), got.scales.defined());
  if (want.scales.defined()) expect_same_bits(want.scales, got.scales, "scales");
  expect_same_bits(want.codes, got.codes, "codes");
  expect_same_residual(want.residual, got.residual);
  context.for_product = true;
  spoil(gpu_arena, 6 * x.view().numel() + 4096, 0xC3);
  const QTensor form = quantize(there, spec, context, gpu_arena);
  expect_same_residual(want.residual, form.residual);
  const bool as_bytes = form.element == ElementFormat::E4M3 && want.element == ElementFormat::E2M1;
  const bool per_row = spec.granularity == Granularity::per_row() && spec.scale == ScaleRule::Absmax;
  if (per_row && want.element == ElementFormat::E2M1 && !spec.transposed && x.view().cols() <= 16'384) {
    EXPECT_EQ(as_bytes, x.view().cols() % 16 == 0) << "as the product reads it";
  }
  if (as_bytes) {
    expect_same_bits(want.scales, form.scales, "scales in the form for a product");
    expect_same_bits(values_of(want), values_of(form), "values in the form for a product");
  } else {
    expect_same_bits(want.codes, form.codes, "codes for a product");
  }
}

constexpr ResidualMode kModes[] = {ResidualMode::None, ResidualMode::Sparse, ResidualMode::Fused};

void check(DType dtype, std::int64_t rows, std::int64_t cols, std::initializer_list<double> alphas,
           std::initializer_list<Rounding> roundings) {
  std::uint64_t seed = static_cast<std::uint64_t>(cols) * 100 + static_cast<std::uint64_t>(rows);
  for (const double alpha : alphas) {
    const OwnedTensor x = rows_of_all(dtype, rows, cols, seed, seed + 1);
    ++seed;
    for (const Rounding rounding : roundings) {
      const ScaleRule rule = seed % 3 == 0 ? ScaleRule::AbsmaxPow2 : ScaleRule::Absmax;
      for (const ResidualMode mode : kModes) {
        SCOPED_TRACE(testing::Message() << rows << " x " << cols << ", alpha " << alpha << ", rounding "
                                        << static_cast<int>(rounding) << ", residual " << static_cast<int>(mode)
                                        << ", seed " << seed);
        expect_same_on_gpu(
            x, with_clamp(quantiser(ElementFormat::E2M1, Granularity::per_row(), rule, rounding), alpha, true, mode));
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

class CudaClampOfWidth : public testing::TestWithParam<std::int64_t> {};

TEST_P(CudaClampOfWidth, RowsGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  check(DType::BF16, 2 * kKinds + 1, GetParam(), {0.99, 0.999, 0.97, 0.9, 1.0},
        {Rounding::NearestUp, Rounding::NearestEven});
}

TEST_P(CudaClampOfWidth, OneRowGivesTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (std::int64_t width = GetParam(); width <= GetParam() + 2; ++width) {
    check(DType::BF16, 1, width, {0.99, 0.97}, {Rounding::NearestUp, Rounding::NearestEven});
  }
}

/// Where bounds and counts of the same kernel serve another pass: other roundings, scales and granularities.
TEST_P(CudaClampOfWidth, BoundsForOtherPassesGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  const std::int64_t cols = GetParam();
  const auto seed = static_cast<std::uint64_t>(cols);
  const OwnedTensor x = rows_of_all(DType::BF16, kFinite, cols, 0, seed);
  using enum ElementFormat;
  const Granularity row = Granularity::per_row();
  for (const QuantSpec& spec : {quantiser(E2M1, row, ScaleRule::Absmax, Rounding::NearestAway),
                                quantiser(E2M1, row, ScaleRule::Absmax, Rounding::Stochastic),
                                quantiser(E2M1, row, ScaleRule::Ceil6, Rounding::NearestEven),
                                quantiser(E2M1, Granularity::block(1, 32), ScaleRule::Ceil6, Rounding::NearestEven),
                                quantiser(E4M3, row, ScaleRule::Absmax)}) {
    for (const double alpha : {0.99, 0.97}) {
      SCOPED_TRACE(testing::Message() << cols << " columns, rounding " << static_cast<int>(spec.rounding)
                                      << ", element " << static_cast<int>(spec.element) << ", alpha " << alpha);
      expect_same_on_gpu(x, with_clamp(spec, alpha, true, ResidualMode::Sparse));
      if (testing::Test::HasFailure()) return;
    }
  }
}

/// Below and above the widths of the kernel, one to twelve warps, four and eight pieces a thread, some of which are not
/// there, rows of halves of sixteens, and rows that are no whole pieces.
INSTANTIATE_TEST_SUITE_P(Widths, CudaClampOfWidth,
                         testing::Values(1, 7, 40, 248, 256, 264, 504, 512, 640, 776, 1000, 1001, 1024, 1032, 1536,
                                         2046, 2048, 2056, 2560, 4096, 5632, 5640, 8192, 11'008, 12'288, 12'296, 16'384,
                                         16'392));

TEST(CudaClamp, RowsOfF32GiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t cols : {1, 9, 250, 256, 1000, 2048, 5632}) {
    check(DType::F32, kKinds, cols, {0.99, 0.97}, {Rounding::NearestUp, Rounding::NearestEven});
  }
}

TEST(CudaClamp, TransposedRowsGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t rows : {256, 520, 2048}) {
    const OwnedTensor x = rows_of_all(DType::BF16, rows, 40, 0, 3);
    for (const ResidualMode mode : kModes) {
      QuantSpec spec =
          with_clamp(quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp),
                     0.99, true, mode);
      spec.transposed = true;
      SCOPED_TRACE(testing::Message() << rows << " rows, residual " << static_cast<int>(mode));
      expect_same_on_gpu(x, spec);
      if (HasFailure()) return;
    }
  }
}

/// What was cut off is added to the elements, or carried beside them, after the pass that found the bounds.
TEST(CudaClamp, DenseResidualAndCarriersGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = rows_of_all(DType::BF16, kFinite, 2048, 0, 11);
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::NearestUp);
  expect_same_on_gpu(x, with_clamp(spec, 0.99, true, ResidualMode::Dense));
  spec.carrier = ElementFormat::E4M3;
  expect_same_on_gpu(x, with_clamp(spec, 0.99, true, ResidualMode::None));
  expect_same_on_gpu(x, with_clamp(spec, 0.99, true, ResidualMode::Sparse));
}

}  // namespace
}  // namespace nibble
