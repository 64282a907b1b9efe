#include "nibble/dist/communicator.h"

#include <gtest/gtest.h>

#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::bytes_of;
using testing_support::random_tensor;

TEST(SingleProcess, LeavesOrCopies) {
  const auto alone = make_single_process(Device::Cpu);
  const OwnedTensor x = random_tensor(DType::BF16, {3, 5}, 1);
  const std::vector<unsigned char> before = bytes_of(x);
  alone->all_reduce(x, Reduce::Sum);
  alone->broadcast(x, 0);
  EXPECT_EQ(bytes_of(x), before);
  const OwnedTensor scattered(DType::BF16, {15}), gathered(DType::BF16, {15}), exchanged(DType::BF16, {15});
  alone->reduce_scatter(x, scattered, Reduce::Max);
  alone->all_gather(x, gathered);
  alone->all_to_all(x, exchanged);
  EXPECT_EQ(bytes_of(scattered), before);
  EXPECT_EQ(bytes_of(gathered), before);
  EXPECT_EQ(bytes_of(exchanged), before);
  alone->barrier();
}

TEST(Communicator, ChecksWhatAllBackendsWant) {
  const auto alone = make_single_process(Device::Cpu);
  const OwnedTensor codes(DType::U8, {4}), half(DType::F16, {4}), four(DType::F32, {4}), five(DType::F32, {5});
  EXPECT_THROW(alone->all_reduce(codes, Reduce::Sum), InternalError);
  EXPECT_NO_THROW(alone->all_reduce(codes, Reduce::Max));
  EXPECT_THROW(alone->all_reduce(half, Reduce::Max), InternalError);
  EXPECT_THROW(alone->reduce_scatter(four, five, Reduce::Sum), InternalError);
  EXPECT_THROW(alone->all_gather(four, codes), InternalError);
  EXPECT_THROW(alone->broadcast(four, 1), InternalError);
  EXPECT_THROW(alone->broadcast(Tensor(four.view().raw(), DType::F32, {4}, Device::Cuda), 0), InternalError);
}

TEST(Communicator, AnErrorOfOneProcessIsThrownOn) {
  const auto alone = make_single_process(Device::Cpu);
  EXPECT_THROW(on_every_rank(*alone, [](Communicator&) { user_error("no such file"); }), UserError);
  EXPECT_EQ(on_every_rank(*alone, [](Communicator& c) { return c.size(); }), 1);
}

}  // namespace
}  // namespace nibble
