// Codes, sums, counts and decoded values of the GPU are the CPU's bits.
#include <cmath>

#include "nibble/ops/gradient_codes.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

TEST(CudaGradientCodes, AreTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : {1, 3, 16, 255, 1024, 100'003, 1'081'344}) {
    for (const int ranks : {1, 2, 3}) {
      SCOPED_TRACE(fmt::format("{} elements, {} ranks", n, ranks));
      const float divisor = std::sqrt(static_cast<float>(ranks));
      const OwnedTensor x = random_tensor(DType::F32, {ranks * n}, 1, 3.0f);
      for (std::int64_t i = 0; i < ranks * n; i += 7) x.view().data<float>()[i] = 50.0f;
      const OwnedTensor amax(DType::F32, {1});
      const OwnedTensor gpu_amax = on_gpu(amax);
      update_amax(x, amax);
      update_amax(on_gpu(x), gpu_amax);
      expect_same_bits(amax, gpu_amax, "amax");

      const OwnedTensor codes(DType::U8, {ranks * n});
      const OwnedTensor gpu_codes = on_gpu(codes);
      encode_gradient(x, amax, divisor, codes);
      encode_gradient(on_gpu(x), gpu_amax, divisor, gpu_codes);
      expect_same_bits(codes, gpu_codes, "codes");

      const OwnedTensor sum(DType::U8, {n});
      const OwnedTensor gpu_sum = on_gpu(sum);
      const OwnedTensor saturated(DType::I32, {1});
      const OwnedTensor gpu_saturated = on_gpu(saturated);
      add_gradient_codes(codes, ranks, sum, saturated);
      add_gradient_codes(gpu_codes, ranks, gpu_sum, gpu_saturated);
      expect_same_bits(sum, gpu_sum, "sum");
      expect_same_bits(saturated, gpu_saturated, "saturated");

      const OwnedTensor back(DType::F32, {n});
      const OwnedTensor gpu_back = on_gpu(back);
      decode_gradient(sum, amax, divisor, back);
      decode_gradient(gpu_sum, gpu_amax, divisor, gpu_back);
      expect_same_bits(back, gpu_back, "x");
    }
  }
}

TEST(CudaGradientCodes, WhatIsNotFiniteCountsAsInfinity) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = random_tensor(DType::F32, {1000}, 1);
  x.view().data<float>()[777] = std::nanf("");
  const OwnedTensor amax(DType::F32, {1});
  const OwnedTensor gpu_amax = on_gpu(amax);
  update_amax(x, amax);
  update_amax(on_gpu(x), gpu_amax);
  expect_same_bits(amax, gpu_amax, "amax");
  EXPECT_TRUE(std::isinf(*amax.view().data<float>()));
}

}  // namespace
}  // namespace nibble
