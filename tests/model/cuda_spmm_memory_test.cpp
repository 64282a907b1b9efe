// What the products with a residual are said to take of a GPU, against what they take.
#include "nibble/model/operand_memory.h"
#include "nibble/ops/spmm.h"
#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using testing_support::on_gpu;
using testing_support::random_tensor;

TEST(CudaSpmmMemory, IsWithinFivePerCentOfTheArena) {
  NIBBLE_NEEDS_GPU();
  const std::int64_t tokens = 4096;
  const std::int64_t inputs = 1024;
  const std::int64_t outputs = 512;
  const OwnedTensor x = on_gpu(random_tensor(DType::BF16, {tokens, inputs}, 1));
  const OwnedTensor w = on_gpu(random_tensor(DType::BF16, {inputs, outputs}, 2));
  const OwnedTensor y(DType::BF16, {tokens, outputs}, Device::Cuda);
  const OwnedTensor dw(DType::F32, {outputs, inputs}, Device::Cuda);
  for (const Tensor& result : {y.view(), dw.view()}) fill_zero(result);
  for (const double alpha : {0.99, 0.999}) {
    QuantSpec spec;
    spec.element = ElementFormat::E2M1;
    spec.scale = ScaleRule::Absmax;
    spec.clamp.alpha = alpha;
    spec.clamp.residual = ResidualMode::Sparse;
    Arena arena(Device::Cuda);
    const QTensor q = quantize(x, spec, {}, arena);
    Arena fprop(Device::Cuda);
    spmm_fprop(q.residual, w, y, fprop);
    const double of_fprop = spmm_fprop_scratch(spec.clamp, tokens, inputs, Device::Cuda);
    EXPECT_NEAR(of_fprop, static_cast<double>(fprop.peak_bytes()), 0.05 * of_fprop) << "alpha " << alpha;
    for (const DType type : {DType::BF16, DType::F32}) {
      const OwnedTensor dy = on_gpu(random_tensor(type, {tokens, outputs}, 3));
      Arena wgrad(Device::Cuda);
      spmm_wgrad(q.residual, dy, dw, wgrad);
      const double of_wgrad = spmm_wgrad_scratch(spec.clamp, tokens, inputs, outputs, type, Device::Cuda);
      EXPECT_NEAR(of_wgrad, static_cast<double>(wgrad.peak_bytes()), 0.05 * of_wgrad) << "alpha " << alpha;
    }
  }
}

}  // namespace
}  // namespace nibble
