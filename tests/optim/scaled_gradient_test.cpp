// Gradients between ranks and the optimizer's states have one way to become FP8.
#include <gtest/gtest.h>

#include "nibble/ops/gradient_codes.h"
#include "nibble/optim/adamw.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

TEST(GradientCodes, OfOneRankAreThoseOfTheOptimizersStates) {
  const OwnedTensor x = random_tensor(DType::F32, {1000}, 3, 1e-4f);
  const OwnedTensor amax(DType::F32, {1});
  update_amax(x, amax);
  const OwnedTensor codes(DType::U8, {1000});
  encode_gradient(x, amax, 1.0f, codes);
  const OwnedTensor data(DType::U8, {1000});
  const OwnedTensor scale_inv(DType::F32, {1});
  scaled_store(x, {data, scale_inv});
  EXPECT_EQ(bytes_of(codes), bytes_of(data));
  const OwnedTensor ours(DType::F32, {1000});
  const OwnedTensor theirs(DType::F32, {1000});
  decode_gradient(codes, amax, 1.0f, ours);
  scaled_load({data, scale_inv}, theirs);
  EXPECT_EQ(bytes_of(ours), bytes_of(theirs));
}

}  // namespace
}  // namespace nibble
