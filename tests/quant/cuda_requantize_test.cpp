// Quantised anew from its codes on a GPU, a stored operand has the bits that the CPU makes of its values.
#include <bit>

#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/requantize_cases.h"

namespace nibble {
namespace {

using testing_support::as_quantised_on_gpu;
using testing_support::expect_same_part;
using testing_support::GpuContext;
using testing_support::GpuQTensor;
using testing_support::whole_scale;

Arena& gpu_arena() {
  static Arena& arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before it
  return arena;
}

void expect_same_qtensor(const QTensor& want, const QTensor& got) {
  ASSERT_EQ(want.element, got.element);
  ASSERT_EQ(want.rows, got.rows);
  ASSERT_EQ(want.cols, got.cols);
  ASSERT_EQ(want.granularity, got.granularity);
  ASSERT_EQ(want.scale_format, got.scale_format);
  ASSERT_EQ(want.outer, got.outer);
  ASSERT_EQ(want.hadamard, got.hadamard);
  ASSERT_EQ(want.turned, got.turned);
  if (want.rows * want.cols > 0) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(whole_scale(want)), std::bit_cast<std::uint32_t>(whole_scale(got)));
  }
  expect_same_part(want.scales, got.scales, "scales");
  expect_same_part(want.outer_scales, got.outer_scales, "outer scales");
  expect_same_part(want.codes, got.codes, "codes");
  expect_same_part(want.mask, got.mask, "mask");
  expect_same_part(want.element_scales, got.element_scales, "element scales");
}

/// Both the CPU's bits and, for a product, those of the GPU's quantiser of the values.
void expect_same_on_gpu(const QTensor& q, const GpuQTensor& there, const Case& to, std::uint64_t seed, bool in_place) {
  const Tensor shape(nullptr, DType::F32, {q.rows, q.cols});
  const CaseContext given = case_context(to, shape, seed);
  const GpuContext there_too(given.context);
  Arena arena;
  const ArenaScope scope(gpu_arena());
  Arena scratch(Device::Cuda);
  expect_same_qtensor(requantize(q, to.spec, given.context, arena, arena),
                      requantize(there.q, to.spec, *there_too, gpu_arena(), scratch));
  EXPECT_EQ(scratch.peak_bytes() == 0, in_place || q.rows * q.cols == 0);
  QuantizeContext for_product = *there_too;
  for_product.for_product = true;
  const Tensor values = stored_values(there.q, gpu_arena());
  const QTensor want = quantize(values, to.spec, for_product, gpu_arena());
  expect_same_qtensor(want, requantize(there.q, to.spec, for_product, gpu_arena(), scratch));
}

bool failed() { return testing::Test::HasFatalFailure() || testing::Test::HasNonfatalFailure(); }

class CudaRequantizeShapes : public testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

TEST_P(CudaRequantizeShapes, EveryPairOfFormatsGivesTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  const auto [rows, cols] = GetParam();
  std::uint64_t seed = 9100 * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(cols);
  for (const Case& from : stored_cases()) {
    std::vector<float> x = awkward_values(rows * cols, ++seed);
    Arena arena;
    const QTensor q = quantize(Tensor::of(x.data(), {rows, cols}), from.spec, {}, arena);
    const GpuQTensor there = as_quantised_on_gpu(q);
    for (const Case& to : again_cases()) {
      if (!divides(to.spec, rows, cols)) continue;
      SCOPED_TRACE(testing::Message() << from.name << " [" << rows << ", " << cols << "] to " << to.name << ", seed "
                                      << ++seed);
      expect_same_on_gpu(q, there, to, seed, true);
      if (failed()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Awkward, CudaRequantizeShapes,
                         testing::Values(std::pair{1, 1}, std::pair{1, 37}, std::pair{37, 1}, std::pair{16, 2},
                                         std::pair{17, 129}, std::pair{32, 33}, std::pair{130, 31}, std::pair{128, 7},
                                         std::pair{160, 272}, std::pair{256, 40}, std::pair{384, 96},
                                         std::pair{144, 200}));

TEST(CudaRequantize, HotShapesGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 70;
  const std::vector<Case> to = again_cases();
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{2048, 512}, {512, 1408}, {256, 5632}, {16384, 64}, {128, 16512}}) {
    for (const Case& from : stored_cases()) {
      std::vector<float> x = awkward_values(rows * cols, ++seed);
      Arena arena;
      const QTensor q = quantize(Tensor::of(x.data(), {rows, cols}), from.spec, {}, arena);
      const GpuQTensor there = as_quantised_on_gpu(q);
      for (std::size_t i = 0; i < 4; ++i) {
        SCOPED_TRACE(testing::Message() << from.name << " [" << rows << ", " << cols << "] to " << to[i].name);
        expect_same_on_gpu(q, there, to[i], ++seed, true);
        if (failed()) return;
      }
    }
  }
}

TEST(CudaRequantize, WhatIsNotReadByItsCodesGivesTheSameBits) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 7;
  const auto check = [&](const Case& from, const Case& to) {
    std::vector<float> x = awkward_values(128 * 96, ++seed);
    Arena arena;
    const QTensor q = quantize(Tensor::of(x.data(), {128, 96}), from.spec, {}, arena);
    SCOPED_TRACE(testing::Message() << from.name << " to " << to.name << ", seed " << seed);
    expect_same_on_gpu(q, as_quantised_on_gpu(q), to, seed, false);
  };
  for (const Case& from : other_stored_cases()) {
    for (const Case& to : again_cases()) check(from, to);
  }
  for (const Case& from : stored_cases()) {
    for (const Case& to : other_again_cases()) check(from, to);
  }
}

TEST(CudaRequantize, EmptyMatrices) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{0, 64}, {128, 0}}) {
    Arena arena;
    const OwnedTensor x(DType::F32, {rows, cols});
    const OwnedTensor x_gpu(DType::F32, {rows, cols}, Device::Cuda);
    for (const Case& to : again_cases()) {
      if (to.spec.rounding == Rounding::Reference) continue;
      SCOPED_TRACE(to.name);
      const ArenaScope scope(gpu_arena());
      const QTensor q = quantize(x, stored_cases()[0].spec, {}, arena);
      const QTensor there = quantize(x_gpu, stored_cases()[0].spec, {}, gpu_arena());
      expect_same_qtensor(requantize(q, to.spec, {}, arena, arena),
                          requantize(there, to.spec, {}, gpu_arena(), gpu_arena()));
    }
  }
}

/// Every pair of codes, and scales of every code from `least` to `most`.
QTensor of_all_codes(const QuantSpec& spec, std::uint32_t least, std::uint32_t most, float tensor_scale, Arena& arena) {
  constexpr std::int64_t kRows = 256;
  constexpr std::int64_t kCols = 512;
  QTensor q;
  q.element = ElementFormat::E2M1;
  q.rows = kRows;
  q.cols = kCols;
  q.granularity = spec.granularity;
  q.scale_format = scale_format(spec.scale);
  q.tensor_scale = tensor_scale;
  allocate_parts(q, false, arena);
  for (std::int64_t i = 0; i < q.codes.numel(); ++i) {
    q.codes.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 167 + i / 256 * 29);
  }
  for (std::int64_t i = 0; i < q.scales.numel(); ++i) {
    q.scales.data<std::uint8_t>()[i] =
        static_cast<std::uint8_t>(least + static_cast<std::uint32_t>(i) * 37 % (most - least + 1));
  }
  return q;
}

TEST(CudaRequantize, AllCodesAndScalesGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  struct Stored {
    int stored_case;
    std::uint32_t least, most;
    float tensor_scale;
    bool sums;  // of which none overflows
  };
  const Stored list[] = {
      {0, 0, 126, 1.0f, true},         {0, 0, 126, 0x1.234567p-20f, true}, {0, 0, 126, 0x1.9abcdep-120f, true},
      {0, 120, 126, 0x1.8p60f, false}, {2, 0, 252, 1.0f, false},           {3, 0, 250, 4.0f / 3, false},
      {3, 60, 180, 4.0f / 3, true},    {2, 0, 40, 4.0f / 3, true}};
  std::uint64_t seed = 5;
  for (const Stored& s : list) {
    const Case from = stored_cases()[static_cast<std::size_t>(s.stored_case)];
    Arena arena;
    const QTensor q = of_all_codes(from.spec, s.least, s.most, s.tensor_scale, arena);
    const GpuQTensor there = as_quantised_on_gpu(q);
    for (const Case& to : again_cases()) {
      const bool adds = to.spec.hadamard.enabled() || to.spec.scale == ScaleRule::QuestNearest;
      if (adds && !s.sums) continue;
      SCOPED_TRACE(testing::Message() << from.name << ", scales " << s.least << " to " << s.most << ", "
                                      << s.tensor_scale << " to " << to.name);
      expect_same_on_gpu(q, there, to, ++seed, true);
      if (failed()) return;
    }
  }
}

}  // namespace
}  // namespace nibble
