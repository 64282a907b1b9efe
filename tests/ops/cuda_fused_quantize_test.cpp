// Rows of RMSNorm and SwiGLU that are quantised as they are made have the bits of those that are written and read:
// codes, scales, residual and rstd, at every width that a thread block holds and beyond, for rows that the search for
// the quantiles finds awkward, in every form that codes are stored in.
#include <cmath>
#include <limits>
#include <random>

#include "nibble/ops/fused_quantize.h"
#include "nibble/ops/rmsnorm.h"
#include "nibble/ops/swiglu.h"
#include "tests/ops/cuda_ops_testing.h"
#include "tests/quant/quantiser.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kEps = 1e-5f;
constexpr int kKinds = 9;

/// Rows of every kind in turn: ordinary ones, outliers in some columns or at the beginning, equal and few values,
/// zeros, numbers of very different sizes, infinities and NaN.
OwnedTensor rows_of_kinds(DType dtype, std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const float x = normal(random);
      const std::uint64_t dice = random() % 512;
      switch (r % kKinds) {
        case 1: values.push_back(c % 97 == 5 ? 30 * x : x); break;
        case 2: values.push_back(c < cols / 20 ? 50 * x : x); break;
        case 3: values.push_back(1.5f); break;
        case 4: values.push_back(dice < 490 ? 0.0f : x); break;
        case 5: values.push_back((static_cast<float>(dice % 5) - 2) / 4); break;
        case 6: values.push_back(x * std::exp(4 * normal(random))); break;
        case 7: values.push_back(dice == 1 ? std::numeric_limits<float>::infinity() : x); break;
        case 8: values.push_back(dice == 1 ? std::numeric_limits<float>::quiet_NaN() : x); break;
        default: values.push_back(x);
      }
    }
  }
  const OwnedTensor wide(DType::F32, {rows, cols});
  std::copy(values.begin(), values.end(), wide.view().data<float>());
  if (dtype == DType::F32) return copy_to(wide, Device::Cuda);
  OwnedTensor narrow(dtype, {rows, cols}, Device::Cuda);
  convert(on_gpu(wide), narrow);
  return narrow;
}

QuantSpec clamped(double alpha, ResidualMode residual, Rounding rounding, ScaleRule rule) {
  QuantSpec spec = quantiser(ElementFormat::E2M1, Granularity::per_row(), rule, rounding);
  spec.clamp = {alpha, true, residual};
  return spec;
}

void expect_same_entries(const CsrMatrix& want, const CsrMatrix& got) {
  ASSERT_EQ(want.defined(), got.defined());
  if (!want.defined()) return;
  expect_same_bits(want.row_begin, got.row_begin, "row_begin");
  const OwnedTensor begins = on_cpu(want.row_begin);
  const std::int64_t entries = begins.view().data<std::int32_t>()[want.rows];
  if (entries == 0) return;
  expect_same_bits(want.col.elements(0, entries), got.col.elements(0, entries), "columns of the residual");
  expect_same_bits(want.value.elements(0, entries), got.value.elements(0, entries), "values of the residual");
}

void expect_same_operand(const QTensor& want, const QTensor& got) {
  ASSERT_EQ(want.element, got.element);
  ASSERT_EQ(want.rows, got.rows);
  ASSERT_EQ(want.cols, got.cols);
  ASSERT_EQ(want.scales.defined(), got.scales.defined());
  if (want.scales.defined()) expect_same_bits(want.scales, got.scales, "scales");
  expect_same_bits(want.codes, got.codes, "codes");
  ASSERT_EQ(want.element_scales.defined(), got.element_scales.defined());
  expect_same_entries(want.residual, got.residual);
}

/// `quantized(spec, context, arena, scratch)` gives what quantize(written, ...) does, by every spec and form.
template <class Quantized>
void expect_same_by_all(const Tensor& written, std::int64_t seed, const Quantized& quantized) {
  static Arena& arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before them
  static Arena& scratch = *new Arena(Device::Cuda);
  const ScaleRule rule = seed % 3 == 0 ? ScaleRule::AbsmaxPow2 : ScaleRule::Absmax;
  const Rounding rounding = seed % 2 == 0 ? Rounding::NearestUp : Rounding::NearestEven;
  for (const double alpha : {0.99, 0.97, 1.0}) {
    for (const ResidualMode mode :
         {ResidualMode::None, ResidualMode::Sparse, ResidualMode::Fused, ResidualMode::Dense}) {
      for (const bool for_product : {true, false}) {
        SCOPED_TRACE(testing::Message() << "alpha " << alpha << ", residual " << static_cast<int>(mode) << ", seed "
                                        << seed << (for_product ? ", for a product" : ""));
        const ArenaScope scope(arena);
        const ArenaScope scratch_scope(scratch);
        const QuantSpec spec = clamped(alpha, mode, rounding, rule);
        QuantizeContext context;
        context.for_product = for_product;
        const QTensor want = quantize(written, spec, context, arena);
        expect_same_operand(want, quantized(spec, context, arena, scratch));
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

class CudaFusedQuantize : public testing::TestWithParam<std::int64_t> {};

TEST_P(CudaFusedQuantize, RmsnormGivesTheBitsOfWhatIsWritten) {
  NIBBLE_NEEDS_GPU();
  const std::int64_t d = GetParam();
  for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{2 * kKinds + 1}}) {
    const OwnedTensor x = rows_of_kinds(DType::F32, rows, d, static_cast<std::uint64_t>(d));
    const OwnedTensor gain = on_gpu(random_tensor(DType::F32, {d}, 2));
    const OwnedTensor y = zeros_on_gpu(DType::BF16, {rows, d});
    const OwnedTensor rstd = zeros_on_gpu(DType::F32, {rows});
    rmsnorm_forward(x, gain, kEps, y, rstd);
    expect_same_by_all(y, d + rows,
                       [&](const QuantSpec& spec, const QuantizeContext& context, Arena& to, Arena& aside) {
                         const OwnedTensor own = zeros_on_gpu(DType::F32, {rows});
                         const QTensor q = rmsnorm_quantize(x, gain, kEps, own, spec, context, to, aside);
                         expect_same_bits(rstd, own, "rstd");
                         return q;
                       });
    if (HasFailure()) return;
  }
}

TEST_P(CudaFusedQuantize, SwigluGivesTheBitsOfWhatIsWritten) {
  NIBBLE_NEEDS_GPU();
  const std::int64_t f = GetParam();
  for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{2 * kKinds + 1}}) {
    const OwnedTensor gate_up = rows_of_kinds(DType::BF16, rows, 2 * f, static_cast<std::uint64_t>(f));
    const OwnedTensor y = zeros_on_gpu(DType::BF16, {rows, f});
    swiglu_forward(gate_up, y);
    expect_same_by_all(y, f + rows,
                       [&](const QuantSpec& spec, const QuantizeContext& context, Arena& to, Arena& aside) {
                         return swiglu_quantize(gate_up, spec, context, to, aside);
                       });
    if (HasFailure()) return;
  }
}

/// Below and above the widths that fuse, one to twelve warps, pieces that are not there, halves of sixteens, widths
/// that are no whole pieces.
INSTANTIATE_TEST_SUITE_P(Widths, CudaFusedQuantize,
                         testing::Values(8, 248, 250, 256, 264, 504, 512, 768, 1000, 1001, 1024, 1032, 1536, 2048, 2056,
                                         2560, 4096, 5632, 8192, 11'008, 12'288, 12'296));

}  // namespace
}  // namespace nibble
