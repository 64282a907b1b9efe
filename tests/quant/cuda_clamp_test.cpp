// Rows of BF16 under quantiles of their own on the GPU: the CPU's bits for rows of every width that a kernel of its own
// takes, and for contents that its search for the quantiles finds awkward.
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
  kFinite,
  SomeInfinite = kFinite,
  kComparable,  ///< below this, differences are numbers
  SomeNaN = kComparable,
  kAll
};

float value_of(Contents contents, std::int64_t c, std::int64_t cols, std::mt19937_64& random, float unit) {
  const float normal = std::normal_distribution<float>()(random) * unit;
  const std::uint64_t dice = random() % 512;
  switch (contents) {
    case Contents::Normal: return normal;
    case Contents::OutlierColumns: return c % 97 == 5 ? 30 * normal : normal;
    case Contents::OutlierRun: return c < cols / 20 ? 50 * normal : normal;
    case Contents::AllEqual: return unit;
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

/// Rows of all kinds in turn, each in a unit of its own.
OwnedTensor rows_of_all(std::int64_t rows, std::int64_t cols, Contents end, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto contents = static_cast<Contents>(r % static_cast<int>(end));
    const float unit = std::exp(2 * std::normal_distribution<float>()(random));
    for (std::int64_t c = 0; c < cols; ++c) values.push_back(value_of(contents, c, cols, random, unit));
  }
  return reference::make_tensor(DType::BF16, rows, cols, values);
}

void expect_same_residual(const CsrMatrix& want, const CsrMatrix& got) {
  ASSERT_EQ(want.defined(), got.defined());
  if (!want.defined()) return;
  expect_same_bits(want.row_begin, got.row_begin, "row_begin");
  const std::int64_t entries = want.row_begin.data<std::int32_t>()[want.rows];
  if (entries == 0) return;
  const auto first = [=](const Tensor& part) { return Tensor(part.raw(), part.dtype(), {entries}, part.device()); };
  expect_same_bits(first(want.col), first(got.col), "residual columns");
  expect_same_bits(first(want.value), first(got.value), "residual values");
}

OwnedTensor values_of(QTensor q) {
  q.residual = {};
  OwnedTensor out(DType::F32, {q.rows, q.cols}, q.codes.device());
  dequantize(q, out);
  return q.codes.device() == Device::Cuda ? on_cpu(out) : std::move(out);
}

void expect_same_on_gpu(const OwnedTensor& x, const QuantSpec& spec) {
  static Arena& gpu_arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before it
  const ArenaScope scope(gpu_arena);
  Arena arena;
  const OwnedTensor there = on_gpu(x);
  const QTensor want = quantize(x, spec, {}, arena);
  const QTensor got = quantize(there, spec, {}, gpu_arena);
  expect_same_bits(want.scales, got.scales, "scales");
  expect_same_bits(want.codes, got.codes, "codes");
  expect_same_residual(want.residual, got.residual);
  QuantizeContext for_product;
  for_product.for_product = true;
  const QTensor form = quantize(there, spec, for_product, gpu_arena);
  expect_same_residual(want.residual, form.residual);
  if (spec.clamp.residual != ResidualMode::Fused) {
    expect_same_bits(values_of(want), values_of(form), "values in the form for a product");
  }
}

void check(std::int64_t cols, Contents end, std::initializer_list<ResidualMode> modes) {
  const std::int64_t rows = 3 * static_cast<int>(end);
  std::uint64_t seed = static_cast<std::uint64_t>(cols) * 100;
  for (const double alpha : {0.99, 0.999, 0.97, 0.9, 1.0}) {
    for (const Rounding rounding : {Rounding::NearestUp, Rounding::NearestEven, Rounding::NearestAway}) {
      const OwnedTensor x = rows_of_all(rows, cols, end, ++seed);
      for (const ResidualMode mode : modes) {
        const ScaleRule rule = seed % 2 == 0 ? ScaleRule::Absmax : ScaleRule::AbsmaxPow2;
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

TEST_P(CudaClampOfWidth, FiniteRowsGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  check(GetParam(), Contents::kFinite, {ResidualMode::None, ResidualMode::Sparse, ResidualMode::Fused});
}

TEST_P(CudaClampOfWidth, RowsWithInfinitiesAndNaNGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  // Under wider bounds than these an infinity may be one of them, and a difference from it NaN of any bits.
  const std::int64_t cols = GetParam();
  std::uint64_t seed = static_cast<std::uint64_t>(cols) + 7;
  for (const Rounding rounding : {Rounding::NearestUp, Rounding::NearestEven}) {
    const QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax, rounding);
    const OwnedTensor some_infinite = rows_of_all(38, cols, Contents::kComparable, ++seed);
    const OwnedTensor some_nan = rows_of_all(40, cols, Contents::kAll, ++seed);
    SCOPED_TRACE(testing::Message() << "rounding " << static_cast<int>(rounding) << ", seed " << seed);
    expect_same_on_gpu(some_infinite, with_clamp(spec, 0.98, true, ResidualMode::Sparse));
    expect_same_on_gpu(some_nan, with_clamp(spec, 0.98, true, ResidualMode::Fused));
    expect_same_on_gpu(some_nan, with_clamp(spec, 0.98, true, ResidualMode::None));
    if (testing::Test::HasFailure()) return;
  }
}

/// Below and above the widths of the kernel, one to twelve warps, pieces that are not there, rows of halves of
/// sixteens.
INSTANTIATE_TEST_SUITE_P(Widths, CudaClampOfWidth,
                         testing::Values(240, 256, 264, 640, 768, 1000, 2048, 2560, 5632, 5640, 11'008, 16'384,
                                         16'400));

}  // namespace
}  // namespace nibble
