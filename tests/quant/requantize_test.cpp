// A stored operand is quantised anew as its values are.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/quant/requantize_cases.h"

namespace nibble {
namespace {

void expect_same_part(const Tensor& want, const Tensor& got, const char* what) {
  ASSERT_EQ(want.defined(), got.defined()) << what;
  if (!want.defined()) return;
  ASSERT_EQ(want.bytes(), got.bytes()) << what;
  EXPECT_EQ(std::memcmp(want.raw(), got.raw(), want.bytes()), 0) << what;
}

template <class F>
void each_pair(const F& f) {
  std::vector<Case> stored = stored_cases();
  std::vector<Case> again = again_cases();
  for (const Case& c : other_stored_cases()) stored.push_back(c);
  for (const Case& c : other_again_cases()) again.push_back(c);
  for (const Case& from : stored) {
    for (const Case& to : again) {
      SCOPED_TRACE(testing::Message() << from.name << " to " << to.name);
      f(from, to);
    }
  }
}

TEST(Requantize, IsTheQuantisationOfTheStoredValuesWithoutTheResidual) {
  constexpr std::int64_t kRows = 128;
  constexpr std::int64_t kCols = 96;
  std::uint64_t seed = 0;
  each_pair([&](const Case& from, const Case& to) {
    std::vector<float> x = awkward_values(kRows * kCols, ++seed);
    const Tensor tensor = Tensor::of(x.data(), {kRows, kCols});
    Arena arena;
    const QTensor q = quantize(tensor, from.spec, {}, arena);
    const Tensor values = arena.allocate(DType::F32, {kRows, kCols});
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t c = 0; c < kCols; ++c) values.data<float>()[r * kCols + c] = q.value_at(r, c);
    }
    const CaseContext given = case_context(to, tensor, seed);
    const QTensor want = quantize(values, to.spec, given.context, arena);
    Arena scratch;
    const QTensor got = requantize(q, to.spec, given.context, arena, scratch);
    EXPECT_EQ(want.tensor_scale, got.tensor_scale);
    expect_same_part(want.codes, got.codes, "codes");
    expect_same_part(want.scales, got.scales, "scales");
    expect_same_part(want.outer_scales, got.outer_scales, "outer scales");
    expect_same_part(want.mask, got.mask, "mask");
    EXPECT_GE(scratch.peak_bytes(), values.bytes());
  });
}

TEST(Requantize, AGpuReadsCodesUnderScalesOfWholeSixteens) {
  std::vector<float> x(64 * 96, 1.0f);
  const Tensor tensor = Tensor::of(x.data(), {64, 96});
  Arena arena;
  const auto reads = [&](const Case& from, const Case& to) {
    const QTensor q = quantize(tensor, from.spec, {}, arena);
    EXPECT_FALSE(requantizes_codes(q, to.spec, Device::Cpu)) << from.name << " to " << to.name;
    return requantizes_codes(q, to.spec, Device::Cuda);
  };
  for (const Case& from : stored_cases()) {
    for (const Case& to : again_cases()) EXPECT_TRUE(reads(from, to)) << from.name << " to " << to.name;
    for (const Case& to : other_again_cases()) EXPECT_FALSE(reads(from, to)) << from.name << " to " << to.name;
  }
  for (const Case& from : other_stored_cases()) {
    for (const Case& to : again_cases()) EXPECT_FALSE(reads(from, to)) << from.name << " to " << to.name;
  }
}

}  // namespace
}  // namespace nibble
