// The trust mask together with the way out of the basis, against the CPU.
#include <random>

#include "nibble/recipe/trust_mask.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using namespace testing_support;
using Signs = Hadamard::Signs;

constexpr RandomStream kStream{0x5EED, 3, 7};

/// Bytes in which all, no or some elements are kept.
OwnedTensor random_mask(std::int64_t rows, std::int64_t cols) {
  OwnedTensor mask(DType::U8, {rows, (cols + 7) / 8});
  std::mt19937 rng(6);
  for (std::int64_t i = 0; i < mask.view().numel(); ++i) {
    const auto random = static_cast<std::uint32_t>(rng());
    const std::uint32_t byte = random % 4 == 0 ? 0xFFu : random % 4 == 1 ? 0u : random >> 8;
    mask.view().data<std::uint8_t>()[i] = static_cast<std::uint8_t>(byte);
  }
  return mask;
}

void expect_same(const Tensor& gradient, const Tensor& mask, const Hadamard& transform, DType to) {
  SCOPED_TRACE(testing::Message() << to_string(gradient) << " group " << transform.group << " to " << dtype_name(to));
  const OwnedTensor gradient_gpu = on_gpu(gradient);
  const OwnedTensor gradient_cpu = on_cpu(gradient);
  const OwnedTensor want(to, {gradient.rows(), gradient.cols()});
  const OwnedTensor got(to, {gradient.rows(), gradient.cols()}, Device::Cuda);
  masked_hadamard_inverse(gradient_gpu, mask.defined() ? on_gpu(mask).view() : mask, transform, kStream, got);
  masked_hadamard_inverse(gradient_cpu, mask, transform, kStream, want);
  expect_same_bits(want, got, "masked_hadamard_inverse");
}

TEST(CudaTrustMask, MaskedInverseGivesTheCpusBitsForEveryGroup) {
  NIBBLE_NEEDS_GPU();
  for (std::int64_t group = 2; group <= 256; group *= 2) {
    for (const std::int64_t groups : {1, 3, 5, 17}) {
      const OwnedTensor mask = random_mask(7, groups * group);
      for (const DType from : {DType::F32, DType::BF16}) {
        const OwnedTensor gradient = random_tensor(from, {7, groups * group}, static_cast<std::uint32_t>(group));
        for (const DType to : {DType::F32, DType::BF16}) {
          for (const bool last : {false, true}) expect_same(gradient, mask, {group, Signs::Call, last}, to);
        }
      }
    }
  }
}

TEST(CudaTrustMask, MaskedInverseGivesTheCpusBitsInPlaceAndOnLargeMatrices) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t group : {32, 128}) {
    const Hadamard transform{group, Signs::Plus, false};
    const OwnedTensor gradient = random_tensor(DType::F32, {3001, 5632}, 2);
    const OwnedTensor mask = random_mask(3001, 5632);
    const OwnedTensor mask_gpu = on_gpu(mask);
    const OwnedTensor gradient_gpu = on_gpu(gradient);
    expect_same(gradient, mask, transform, DType::BF16);
    masked_hadamard_inverse(gradient_gpu, mask_gpu, transform, kStream, gradient_gpu);
    masked_hadamard_inverse(gradient, mask, transform, kStream, gradient);
    expect_same_bits(gradient, gradient_gpu, "in place");
  }
}

TEST(CudaTrustMask, MaskedInverseTakesRowsThatBeginAnywhereNoRowsAndNoMask) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor all = random_tensor(DType::F32, {9, 32}, 3);
  const OwnedTensor all_gpu = on_gpu(all);
  const OwnedTensor mask = random_mask(8, 32);
  const OwnedTensor mask_gpu = on_gpu(mask);
  const Hadamard transform{32, Signs::Call, false};
  const Tensor shifted(all.view().data<float>() + 1, DType::F32, {8, 32});  // not aligned to a pack
  const Tensor shifted_gpu(all_gpu.view().data<float>() + 1, DType::F32, {8, 32}, Device::Cuda);
  masked_hadamard_inverse(shifted, mask, transform, kStream, shifted);
  masked_hadamard_inverse(shifted_gpu, mask_gpu, transform, kStream, shifted_gpu);
  expect_same_bits(all, all_gpu, "a view that is not aligned");

  masked_hadamard_inverse(all_gpu.view().row_range(4, 4), mask_gpu.view().row_range(4, 4), transform, kStream,
                          all_gpu.view().row_range(4, 4));
  expect_same_bits(all, all_gpu, "no rows");
  expect_same(all, {}, transform, DType::BF16);
  EXPECT_THROW(masked_hadamard_inverse(all_gpu, mask_gpu, transform, kStream, all_gpu), InternalError);
}

}  // namespace
}  // namespace nibble
