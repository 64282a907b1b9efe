// What a GPU stores for a product (QuantizeContext::for_product) has the values of what it stores otherwise.
#include <random>

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using testing_support::on_cpu;
using testing_support::on_gpu;

OwnedTensor normal(DType dtype, std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols));
  std::normal_distribution<float> values;
  OwnedTensor x(DType::F32, {rows, cols});
  for (float& v : std::span(x.view().data<float>(), static_cast<std::size_t>(rows * cols))) v = values(random);
  OwnedTensor out(dtype, {rows, cols});
  convert(x, out);
  return out;
}

/// The values of q without the factor on the whole tensor, on the CPU.
OwnedTensor values(QTensor q) {
  q.tensor_scale = 1.0f;
  q.device_scale = {};
  q.residual = {};
  OwnedTensor out(DType::F32, {q.rows, q.cols}, q.codes.device());
  dequantize(q, out);
  return q.codes.device() == Device::Cuda ? on_cpu(out) : std::move(out);
}

void expect_same_values(const QTensor& want, const QTensor& got) {
  const OwnedTensor a = values(want);
  const OwnedTensor b = values(got);
  ASSERT_EQ(got.rows, got.turned ? want.cols : want.rows);
  ASSERT_EQ(got.cols, got.turned ? want.rows : want.cols);
  for (std::int64_t r = 0; r < want.rows; ++r) {
    for (std::int64_t c = 0; c < want.cols; ++c) {
      const std::int64_t at = got.turned ? c * got.cols + r : r * got.cols + c;
      ASSERT_EQ(a.view().data<float>()[r * want.cols + c], b.view().data<float>()[at]) << "at " << r << ", " << c;
    }
  }
  const OwnedTensor scale = got.device_scale.defined() ? on_cpu(got.device_scale) : OwnedTensor(DType::F32, {1});
  const float device = got.device_scale.defined() ? scale.view().data<float>()[0] : 1.0f;
  EXPECT_EQ(want.tensor_scale, got.tensor_scale * device);
}

struct Forms {
  int e4m3 = 0, bf16 = 0, turned = 0, stored = 0;
};

Forms check_all(DType dtype, std::int64_t rows, std::int64_t cols, bool transposed, bool folds) {
  static Arena& gpu_arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before it
  const OwnedTensor x = normal(dtype, rows, cols);
  const OwnedTensor x_gpu = on_gpu(x);
  const OwnedTensor row_fold = normal(DType::F32, 1, rows);
  const OwnedTensor col_fold = normal(DType::F32, 1, cols);
  const OwnedTensor row_fold_gpu = on_gpu(row_fold);
  const OwnedTensor col_fold_gpu = on_gpu(col_fold);
  Forms seen;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    QuantSpec spec = c.spec;
    if (spec.rounding == Rounding::Reference || (spec.transposed && folds)) continue;
    spec.transposed = transposed;
    QuantizeContext context;
    context.random = {7, 8, 9};
    QuantizeContext on_device = context;
    on_device.for_product = true;
    if (folds) {
      context.row_fold = row_fold.view().reshape({rows});
      context.col_fold = col_fold.view().reshape({cols});
      on_device.row_fold = row_fold_gpu.view().reshape({rows});
      on_device.col_fold = col_fold_gpu.view().reshape({cols});
    }
    Arena arena;
    const ArenaScope scope(gpu_arena);
    const QTensor want = quantize(x, spec, context, arena);
    const QTensor got = quantize(x_gpu, spec, on_device, gpu_arena);
    expect_same_values(want, got);
    if (testing::Test::HasFatalFailure()) return seen;
    const bool e2m1 = spec.element == ElementFormat::E2M1;
    seen.e4m3 += e2m1 && got.element == ElementFormat::E4M3 ? 1 : 0;
    seen.bf16 += e2m1 && got.element == ElementFormat::BF16 ? 1 : 0;
    seen.turned += got.turned ? 1 : 0;
    seen.stored += got.element == want.element ? 1 : 0;
  }
  return seen;
}

TEST(CudaForm, ValuesAreThoseThatAreStoredOtherwise) {
  NIBBLE_NEEDS_GPU();
  for (const DType dtype : {DType::BF16, DType::F32}) {
    for (const bool folds : {false, true}) {
      const Forms seen = check_all(dtype, 48, 192, false, folds);
      if (HasFatalFailure()) return;
      EXPECT_GT(seen.e4m3, 0);
      EXPECT_GT(seen.bf16, 0);
      EXPECT_GT(seen.turned, 0);
    }
    const Forms seen = check_all(dtype, 208, 80, true, false);
    if (HasFatalFailure()) return;
    EXPECT_GT(seen.e4m3, 0);
    EXPECT_GT(seen.bf16, 0);
  }
}

TEST(CudaForm, RowsThatAreNoWholePiecesStayPacked) {
  NIBBLE_NEEDS_GPU();
  for (const bool transposed : {false, true}) {
    const Forms seen = check_all(DType::BF16, 37, 55, transposed, false);
    if (HasFatalFailure()) return;
    EXPECT_EQ(seen.e4m3 + seen.bf16, 0);
  }
}

}  // namespace
}  // namespace nibble
