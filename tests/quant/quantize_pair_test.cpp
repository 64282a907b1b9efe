// A pair of operands is what two calls give.
#include "nibble/quant/quantize.h"
#include "tests/quant/quantize_cases.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

OwnedTensor tensor_of(DType dtype, std::int64_t rows, std::int64_t cols, std::vector<float> values) {
  return reference::make_tensor(dtype, rows, cols, values);
}

void expect_same_part(const Tensor& want, const Tensor& got, const char* what) {
  ASSERT_EQ(want.defined(), got.defined()) << what;
  if (!want.defined()) return;
  ASSERT_EQ(want.dtype(), got.dtype()) << what;
  ASSERT_EQ(want.bytes(), got.bytes()) << what;
  EXPECT_EQ(std::memcmp(want.raw(), got.raw(), want.bytes()), 0) << what;
}

void expect_same_operand(const QTensor& want, const QTensor& got) {
  ASSERT_EQ(want.element, got.element);
  ASSERT_EQ(want.rows, got.rows);
  ASSERT_EQ(want.cols, got.cols);
  EXPECT_EQ(want.granularity, got.granularity);
  EXPECT_EQ(want.tensor_scale, got.tensor_scale);
  EXPECT_EQ(want.turned, got.turned);
  expect_same_part(want.codes, got.codes, "codes");
  expect_same_part(want.scales, got.scales, "scales");
}

struct PairOfSpecs {
  const char* name;
  QuantSpec a, b;
  bool folds = false;
};

std::vector<PairOfSpecs> pairs() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  const QuantSpec by_rows = quantiser(E4M3, Granularity::per_row(), Absmax);
  const QuantSpec by_columns = quantiser(E4M3, Granularity::per_column(), Absmax);
  const QuantSpec nvfp4_rows = quantiser(E2M1, Granularity::block(1, 16), Nvfp4, Stochastic8);
  QuantSpec nvfp4_turned = nvfp4_rows;
  nvfp4_turned.transposed = true;
  nvfp4_turned.hadamard = {16, Hadamard::Signs::Vector, false};
  return {{"e4m3", by_rows, by_columns},
          {"e4m3, folds", by_rows, by_columns, true},
          {"nvfp4", nvfp4_rows, nvfp4_turned},
          {"of two kinds", by_columns, nvfp4_turned}};
}

TEST(QuantizePair, IsWhatTwoCallsGive) {
  for (const PairOfSpecs& p : pairs()) {
    for (const bool for_product : {false, true}) {
      SCOPED_TRACE(testing::Message() << p.name << (for_product ? ", for a product" : ""));
      const OwnedTensor x = tensor_of(DType::BF16, 48, 80, awkward_values(48 * 80, 5));
      const OwnedTensor row_fold = tensor_of(DType::F32, 1, 48, reference::gaussian(48, 6));
      const OwnedTensor col_fold = tensor_of(DType::F32, 1, 80, reference::gaussian(80, 7));
      QuantizeContext in_a;
      in_a.random = {1, 2, 3};
      in_a.for_product = for_product;
      QuantizeContext in_b = in_a;
      in_b.random = {1, 2, 4};
      in_b.signs = {1, 5, 6};
      if (p.folds) in_a.col_fold = col_fold;
      if (p.folds) in_b.row_fold = row_fold;
      Arena arena;
      const QTensor first = quantize(x, p.a, in_a, arena);
      const QTensor second = quantize(x, p.b, in_b, arena);
      const QuantizedPair got = quantize_pair(x, p.a, in_a, p.b, in_b, arena);
      expect_same_operand(first, got.first);
      expect_same_operand(second, got.second);
    }
  }
}

TEST(QuantizePair, LeavesTheAmaxOfATensorToEachCallOnTheCpu) {
  const PairOfSpecs nvfp4 = pairs()[2];
  const OwnedTensor x = tensor_of(DType::F32, 32, 64, awkward_values(32 * 64, 8));
  Arena arena;
  const QuantizeContext context;
  const AmaxPair amax = amax_pair(x, nvfp4.a, context, nvfp4.b, context, arena);
  EXPECT_FALSE(amax.first.defined());
  EXPECT_FALSE(amax.second.defined());
}

}  // namespace
}  // namespace nibble
