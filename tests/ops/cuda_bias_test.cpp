#include "nibble/ops/bias.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::initializer_list<std::pair<std::int64_t, std::int64_t>> kShapes = {
    {1, 1}, {1, 8}, {5, 7}, {300, 768}, {4100, 4096}, {5000, 33}, {0, 16}};

TEST(CudaBias, ForwardHasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, n] : kShapes) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(fmt::format("[{}, {}] {}", rows, n, dtype_name(dtype)));
      const OwnedTensor y = random_tensor(dtype, {rows, n}, 1);
      const OwnedTensor bias = random_tensor(DType::F32, {n}, 2);
      const OwnedTensor gpu_y = on_gpu(y);
      const Misaligned crooked_y(y);
      bias_forward(y, bias);
      bias_forward(gpu_y, on_gpu(bias));
      bias_forward(crooked_y, on_gpu(bias));
      expect_same_bits(y, gpu_y, "y");
      expect_same_bits(y, crooked_y, "misaligned y");
    }
  }
}

TEST(CudaBias, BackwardIsTheCpusAndTheSameTwice) {
  NIBBLE_NEEDS_GPU();
  Arena cpu_scratch;
  Arena gpu_scratch(Device::Cuda);
  for (const auto& [rows, n] : kShapes) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(fmt::format("[{}, {}] {}", rows, n, dtype_name(dtype)));
      const OwnedTensor dy = random_tensor(dtype, {rows, n}, 3);
      const OwnedTensor dbias = random_tensor(DType::F32, {n}, 4);
      const OwnedTensor gpu[] = {on_gpu(dbias), on_gpu(dbias)};
      for (const OwnedTensor& sum : gpu) bias_backward(on_gpu(dy), sum, gpu_scratch);
      bias_backward(dy, dbias, cpu_scratch);
      expect_close(dbias, gpu[0], 1e-5, "dbias");
      expect_same_bits(gpu[0], gpu[1], "dbias");
    }
  }
}

}  // namespace
}  // namespace nibble
