// Parts of a matrix under the magnitudes that they share: the GPU finds the CPU's and quantises to its bits.
#include <algorithm>

#include "tests/cuda_testing.h"
#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/shared_amax_cases.h"

namespace nibble {
namespace {

using namespace testing_support;

TEST(CudaSharedAmax, AndThePartsUnderItAreTheCpus) {
  NIBBLE_NEEDS_GPU();
  constexpr std::int64_t kRows = 200;
  constexpr std::int64_t kCols = 96;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const OwnedTensor x = random_tensor(dtype, {kRows, kCols}, 3);
    const OwnedTensor x_gpu = on_gpu(x);
    for (const testing::SharedCase& c : testing::shared_cases()) {
      SCOPED_TRACE(c.name);
      Arena cpu(Device::Cpu, 1 << 20);
      Arena gpu(Device::Cuda, 1 << 20);
      QuantizeContext context;
      context.random = {7, 3, 11};
      context.signs = {7, 3, 12};
      context.element_stride = c.spec.transposed ? kRows : 0;
      const std::int64_t n = shared_amaxes(c.spec, kCols);
      OwnedTensor most(DType::I32, {n});
      OwnedTensor most_gpu(DType::I32, {n}, Device::Cuda);
      shared_amax(x, c.spec, context, most, cpu);
      shared_amax(x_gpu, c.spec, context, most_gpu, gpu);
      expect_same_bits(most, most_gpu, "magnitudes");
      const std::int64_t half = c.spec.granularity.rows == 80 ? 80 : 96;
      context.element_offset = static_cast<std::uint64_t>(c.spec.transposed ? half : half * kCols);
      QuantizeContext context_gpu = context;
      context.amax = most;
      context_gpu.amax = most_gpu;
      const QTensor want = quantize(x.view().row_range(half, kRows), c.spec, context, cpu);
      const QTensor got = quantize(x_gpu.view().row_range(half, kRows), c.spec, context_gpu, gpu);
      expect_same_bits(want.codes, got.codes, "codes");
      expect_same_bits(want.scales, got.scales, "scales");
      if (want.mask.defined()) expect_same_bits(want.mask, got.mask, "mask");
      ASSERT_EQ(got.device_scale.defined(), c.spec.scale == ScaleRule::Nvfp4);
      if (got.device_scale.defined()) {
        const OwnedTensor scale = on_cpu(got.device_scale);
        EXPECT_EQ(scale.view().data<float>()[0], want.tensor_scale);
      }
    }
  }
}

}  // namespace
}  // namespace nibble
