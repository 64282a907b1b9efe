#include "nibble/tensor/work_graphs.h"

#include <stdexcept>

#include "nibble/tensor/staging.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::int64_t kCount = 5000;

OwnedTensor filled(float value) {
  OwnedTensor x(DType::F32, {kCount});
  for (std::int64_t i = 0; i < kCount; ++i) x.view().data<float>()[i] = value;
  return x;
}

/// The value of all elements.
float value_of(const Tensor& x) {
  const OwnedTensor here = on_cpu(x);
  const float* p = here.view().data<float>();
  for (std::int64_t i = 1; i < kCount; ++i) EXPECT_EQ(p[i], p[0]);
  return p[0];
}

TEST(WorkGraphs, OnTheCpuCallTheWork) {
  WorkGraphs graphs(Device::Cpu);
  int calls = 0;
  for (int i = 0; i < 3; ++i) graphs.run(0, [&] { ++calls; });
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(graphs.instantiated(), 0);
}

struct WorkGraphsOnTheGpu : testing::Test {
  WorkGraphs graphs{Device::Cuda};
  OwnedTensor narrow, out;

  void SetUp() override {
    NIBBLE_NEEDS_GPU();
    narrow = OwnedTensor(DType::BF16, {kCount}, Device::Cuda);
    out = OwnedTensor(DType::F32, {kCount}, Device::Cuda);
  }
  void through_bf16(const Tensor& x) {
    convert(x, narrow);
    convert(narrow, out);
  }
};

TEST_F(WorkGraphsOnTheGpu, TakeTheParametersOfEachRun) {
  std::vector<OwnedTensor> inputs;
  for (int i = 0; i < 6; ++i) inputs.push_back(on_gpu(filled(static_cast<float>(i + 1))));
  for (int i = 0; i < 6; ++i) {
    graphs.run(0, [&] { through_bf16(inputs[static_cast<std::size_t>(i)]); });
    EXPECT_EQ(value_of(out), static_cast<float>(i + 1));
  }
  EXPECT_EQ(graphs.instantiated(), 1) << "updated, not made anew";
}

TEST_F(WorkGraphsOnTheGpu, FollowOneAnotherInOrderWhileOthersAreUnderWay) {
  const OwnedTensor x = on_gpu(filled(3.0f));
  const OwnedTensor copied(DType::F32, {kCount}, Device::Cuda);
  for (int i = 0; i < 50; ++i) {
    graphs.run(0, [&] { fill_zero(out); });
    graphs.run(1, [&] { through_bf16(x); });
    graphs.run(2, [&] { copy(out, copied); });
  }
  EXPECT_EQ(value_of(copied), 3.0f);
  EXPECT_EQ(graphs.instantiated(), 3);
}

TEST_F(WorkGraphsOnTheGpu, AreMadeAnewWhereTheLaunchesAreOthers) {
  const OwnedTensor x = on_gpu(filled(2.0f));
  for (const bool clear : {false, false, true, true, false}) {
    graphs.run(0, [&] {
      through_bf16(x);
      if (clear) fill_zero(out);
    });
    EXPECT_EQ(value_of(out), clear ? 0.0f : 2.0f);
  }
  EXPECT_EQ(graphs.instantiated(), 3);
}

TEST_F(WorkGraphsOnTheGpu, AreCutWhereTheWorkWaits) {
  Staging back(Device::Cuda);
  for (int i = 1; i <= 4; ++i) {
    const OwnedTensor x = on_gpu(filled(static_cast<float>(i)));
    graphs.run(0, [&] {
      through_bf16(x);
      EXPECT_EQ(value_of(out), static_cast<float>(i)) << "what was launched before is done";
      back.begin_read(out);
      fill_zero(out);
      EXPECT_EQ(back.read().data<float>()[kCount - 1], static_cast<float>(i));
      synchronize(Device::Cuda);
    });
    EXPECT_EQ(value_of(out), 0.0f);
  }
}

TEST_F(WorkGraphsOnTheGpu, MayTakeMemoryOfAnArenaThatGrows) {
  const OwnedTensor x = on_gpu(filled(5.0f));
  Arena arena(Device::Cuda, 64);
  for (int i = 0; i < 3; ++i) {
    graphs.run(0, [&] {
      const Tensor scratch = arena.allocate(DType::F32, {kCount});  // never given back
      copy(x, scratch);
      copy(scratch, out);
    });
    EXPECT_EQ(value_of(out), 5.0f);
    fill_zero(out);
  }
}

TEST_F(WorkGraphsOnTheGpu, AfterAnErrorTheGpuGoesOn) {
  const OwnedTensor x = on_gpu(filled(4.0f));
  for (int i = 0; i < 2; ++i) graphs.run(0, [&] { through_bf16(x); });
  EXPECT_THROW(graphs.run(0,
                          [&] {
                            fill_zero(out);
                            throw std::runtime_error("stop");
                          }),
               std::runtime_error);
  EXPECT_EQ(value_of(out), 4.0f) << "what was captured is not launched";
  EXPECT_THROW(graphs.run(0, [&] { graphs.run(1, [] {}), graphs.run(1, [] {}); }), InternalError);
  graphs.run(0, [&] { through_bf16(x); });
  EXPECT_EQ(value_of(out), 4.0f);
}

}  // namespace
}  // namespace nibble
