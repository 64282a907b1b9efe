#include "nibble/recipe/trust_mask.h"

#include <gtest/gtest.h>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr RandomStream kStream{0x5EED, 3, 7};

TEST(TrustMask, MaskedInverseClearsInTheBasisAndThenLeavesIt) {
  for (const std::int64_t group : {2, 4, 32}) {
    const std::int64_t cols = 3 * group;  // 6 and 12 are no multiples of eight
    const Hadamard transform{group, Hadamard::Signs::Call, false};
    const OwnedTensor gradient = random_tensor(DType::F32, {5, cols}, 1);
    const OwnedTensor mask(DType::U8, {5, (cols + 7) / 8});
    const OwnedTensor cleared = random_tensor(DType::F32, {5, cols}, 1);
    for (std::int64_t r = 0; r < 5; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        if ((r + c) % 3 == 0) {
          cleared.view().data<float>()[r * cols + c] = 0;
        } else {
          auto& byte = mask.view().data<std::uint8_t>()[r * mask.view().cols() + c / 8];
          byte = static_cast<std::uint8_t>(byte | 1 << c % 8);
        }
      }
    }
    for (const DType to : {DType::F32, DType::BF16}) {
      const OwnedTensor want(to, {5, cols});
      const OwnedTensor got(to, {5, cols});
      const OwnedTensor source = random_tensor(DType::F32, {5, cols}, 1);
      hadamard_inverse(cleared, transform, kStream, want);
      masked_hadamard_inverse(source, mask, transform, kStream, got);
      EXPECT_EQ(doubles(want), doubles(got)) << "group " << group << " to " << dtype_name(to);
    }
    masked_hadamard_inverse(gradient, mask, transform, kStream, gradient);
    hadamard_inverse(cleared, transform, kStream, cleared);
    EXPECT_EQ(doubles(cleared), doubles(gradient)) << "group " << group << " in place";
  }
}

TEST(TrustMask, MaskedInverseWithoutAMaskIsTheInverse) {
  const Hadamard transform{16, Hadamard::Signs::Vector, false};
  const OwnedTensor gradient = random_tensor(DType::F32, {3, 64}, 2);
  const OwnedTensor want(DType::F32, {3, 64});
  const OwnedTensor got(DType::F32, {3, 64});
  hadamard_inverse(gradient, transform, kStream, want);
  masked_hadamard_inverse(gradient, {}, transform, kStream, got);
  EXPECT_EQ(doubles(want), doubles(got));
}

}  // namespace
}  // namespace nibble
