#include "nibble/tensor/staging.h"

#include "tests/cuda_testing.h"

namespace nibble {
namespace {

OwnedTensor counting(std::int64_t n, float first) {
  OwnedTensor x(DType::F32, {n});
  for (std::int64_t i = 0; i < n; ++i) x.view().data<float>()[i] = first + static_cast<float>(i);
  return x;
}

/// A tensor there and back, and what becomes of it while it is on its way.
void expect_values_of_the_moment(Device device) {
  Staging there(device);
  Staging back(device);
  for (const std::int64_t n : {3, 100'000, 7}) {
    const OwnedTensor x = counting(n, 1.0f);
    const OwnedTensor on_device(DType::F32, {n}, device);
    for (const float first : {1.0f, 2.0f, 3.0f}) {
      x.view().data<float>()[0] = first;
      there.send(x, on_device);
      x.view().data<float>()[0] = -1.0f;
      back.begin_read(on_device);
      fill_zero(on_device);
      const Tensor read = back.read();
      ASSERT_EQ(read.numel(), n);
      EXPECT_EQ(read.device(), Device::Cpu);
      EXPECT_EQ(read.data<float>()[0], first);
      EXPECT_EQ(read.data<float>()[n - 1], static_cast<float>(n));
    }
  }
  EXPECT_THROW(there.read(), InternalError) << "nothing was begun";
  EXPECT_THROW(there.send(counting(2, 0), OwnedTensor(DType::F32, {3}, device)), InternalError);
}

TEST(Staging, KeepsTheValuesOfTheMomentOnTheCpu) { expect_values_of_the_moment(Device::Cpu); }

TEST(Staging, KeepsTheValuesOfTheMomentOnTheGpu) {
  NIBBLE_NEEDS_GPU();
  expect_values_of_the_moment(Device::Cuda);
}

}  // namespace
}  // namespace nibble
