// Without a GPU, or a build for one, what asks for its memory is told so in a sentence.
#include "nibble/tensor/device.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(Device, TheMemoryOfAMissingGpuIsRefusedWithASentence) {
  if (cuda_devices() > 0) GTEST_SKIP() << "there is a GPU here";
  for (const bool by_arena : {true, false}) {
    try {
      if (by_arena) {
        Arena(Device::Cuda).allocate(DType::F32, {4});
      } else {
        OwnedTensor(DType::F32, {4}, Device::Cuda);
      }
      FAIL() << "no error";
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find("choose device = \"cpu\""), std::string::npos) << e.what();
    }
  }
  EXPECT_THROW(cuda_device(), UserError);
}

TEST(Device, CopiesOnTheCpuAreTheSameBytes) {
  const float values[] = {1.0f, -2.5f, 3.0f};
  const OwnedTensor copied = copy_to(Tensor::of(values, {3}), Device::Cpu);
  EXPECT_EQ(copied.view().data<float>()[1], -2.5f);
  EXPECT_THROW(copy(Tensor::of(values, {3}), copied.view().elements(0, 2)), InternalError);
}

}  // namespace
}  // namespace nibble
