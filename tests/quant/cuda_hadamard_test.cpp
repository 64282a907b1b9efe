#include "nibble/quant/hadamard.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using namespace testing_support;
using Signs = Hadamard::Signs;

constexpr RandomStream kStream{0x5EED, 3, 7};

using Transform = void (*)(const Tensor&, const Hadamard&, const RandomStream&, const Tensor&);
constexpr Transform kBoth[] = {hadamard_forward, hadamard_inverse};

void expect_same_transform(const Tensor& x, const Tensor& x_gpu, DType to, const Hadamard& transform) {
  SCOPED_TRACE(testing::Message() << to_string(x) << " group " << transform.group << " to " << dtype_name(to));
  for (const Transform f : kBoth) {
    const OwnedTensor want(to, {x.rows(), x.cols()});
    const OwnedTensor got(to, {x.rows(), x.cols()}, Device::Cuda);
    f(x, transform, kStream, want);
    f(x_gpu, transform, kStream, got);
    expect_same_bits(want, got, "transform");
  }
}

TEST(CudaHadamard, GivesTheCpusBitsForEveryGroupAndKindOfSigns) {
  NIBBLE_NEEDS_GPU();
  for (std::int64_t group = 2; group <= 256; group *= 2) {
    for (const Signs signs : {Signs::Plus, Signs::Vector, Signs::Step, Signs::Call}) {
      if (signs == Signs::Vector && group != 16) continue;
      for (const bool last : {false, true}) {
        for (const std::int64_t groups : {1, 3, 17}) {
          for (const DType from : {DType::F32, DType::BF16}) {
            const OwnedTensor x = random_tensor(from, {5, groups * group}, static_cast<std::uint32_t>(group), 10.0f);
            const OwnedTensor x_gpu = on_gpu(x);
            for (const DType to : {DType::F32, DType::BF16}) {
              expect_same_transform(x, x_gpu, to, {group, signs, last});
            }
          }
        }
      }
    }
  }
}

TEST(CudaHadamard, GivesTheCpusBitsInPlaceAndOnLargeMatrices) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t group : {16, 128}) {
    const Hadamard transform{group, Signs::Step, false};
    const OwnedTensor x = random_tensor(DType::F32, {1000, 2048}, 2);
    const OwnedTensor x_gpu = on_gpu(x);
    for (const Transform f : kBoth) {
      f(x, transform, kStream, x);
      f(x_gpu, transform, kStream, x_gpu);
      expect_same_bits(x, x_gpu, "in place");
    }
  }
}

TEST(CudaHadamard, GivesTheCpusBitsForExtremeValues) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x(DType::F32, {2, 64});
  constexpr float kValues[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 0x1p-126f, 1e36f, -3e36f, 65504.0f, 1.0f, -1.0f, 3.0f};
  for (std::int64_t i = 0; i < 128; ++i) x.view().data<float>()[i] = kValues[i * 7 % 11] * (i < 64 ? 1.0f : 1e-3f);
  const OwnedTensor x_gpu = on_gpu(x);
  for (const std::int64_t group : {2, 8, 32}) {
    expect_same_transform(x, x_gpu, DType::F32, {group, Signs::Call, false});
    expect_same_transform(x, x_gpu, DType::BF16, {group, Signs::Call, true});
  }
}

TEST(CudaHadamard, RowsMayBeginAnywhereAndBeNone) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = random_tensor(DType::F32, {7, 6}, 3);
  const OwnedTensor x_gpu = on_gpu(x);
  expect_same_transform(x.view().row_range(1, 7), x_gpu.view().row_range(1, 7), DType::F32, {2, Signs::Call, false});
  expect_same_transform(x.view().row_range(1, 7), x_gpu.view().row_range(1, 7), DType::BF16, {2, Signs::Plus, true});
  expect_same_transform(x.view().row_range(2, 2), x_gpu.view().row_range(2, 2), DType::F32, {2, Signs::Plus, false});
  EXPECT_THROW(hadamard_forward(x_gpu, {4, Signs::Plus, false}, kStream, x_gpu), InternalError);
}

}  // namespace
}  // namespace nibble
