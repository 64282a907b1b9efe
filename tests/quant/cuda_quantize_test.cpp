// The GPU's quantiser gives the CPU's bits: codes, scales of all levels, masks, residuals, for every spec.
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"
#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using testing_support::expect_same_bits;
using testing_support::expect_same_part;
using testing_support::GpuContext;
using testing_support::on_cpu;
using testing_support::on_gpu;

void expect_same_residual(const CsrMatrix& want, const CsrMatrix& got) {
  ASSERT_EQ(want.defined(), got.defined());
  if (!want.defined()) return;
  ASSERT_EQ(want.rows, got.rows);
  ASSERT_EQ(want.cols, got.cols);
  expect_same_part(want.row_begin, got.row_begin, "row_begin");
  ASSERT_EQ(want.col.numel(), got.col.numel());
  const std::int64_t entries = want.row_begin.data<std::int32_t>()[want.rows];
  if (entries == 0) return;
  const auto first = [=](const Tensor& part) { return Tensor(part.raw(), part.dtype(), {entries}, part.device()); };
  expect_same_bits(first(want.col), first(got.col), "residual columns");
  expect_same_bits(first(want.value), first(got.value), "residual values");
}

/// `got` of the GPU has the bits of `want` of the CPU in every part; its tensor scale may be in device_scale.
void expect_same_qtensor(const QTensor& want, const QTensor& got) {
  ASSERT_EQ(want.element, got.element);
  ASSERT_EQ(want.rows, got.rows);
  ASSERT_EQ(want.cols, got.cols);
  ASSERT_EQ(want.granularity, got.granularity);
  ASSERT_EQ(want.scale_format, got.scale_format);
  ASSERT_EQ(want.outer, got.outer);
  ASSERT_EQ(want.hadamard, got.hadamard);
  ASSERT_EQ(want.element_granularity, got.element_granularity);
  float scale = got.tensor_scale;
  if (got.device_scale.defined()) {
    ASSERT_EQ(scale, 1.0f);
    const OwnedTensor fetched = on_cpu(got.device_scale);
    scale = fetched.view().data<float>()[0];
  }
  EXPECT_EQ(std::bit_cast<std::uint32_t>(want.tensor_scale), std::bit_cast<std::uint32_t>(scale));
  expect_same_part(want.scales, got.scales, "scales");
  expect_same_part(want.outer_scales, got.outer_scales, "outer scales");
  expect_same_part(want.codes, got.codes, "codes");
  expect_same_part(want.mask, got.mask, "mask");
  expect_same_part(want.element_scales, got.element_scales, "element scales");
  expect_same_residual(want.residual, got.residual);
}

void expect_same_on_gpu(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context) {
  static Arena& gpu_arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before it
  Arena cpu_arena;
  const ArenaScope scope(gpu_arena);
  const QTensor want = quantize(x, spec, context, cpu_arena);
  const OwnedTensor on_device = x.numel() > 0 ? on_gpu(x) : OwnedTensor(x.dtype(), x.shape(), Device::Cuda);
  const GpuContext on_device_too(context);
  expect_same_qtensor(want, quantize(on_device, spec, *on_device_too, gpu_arena));
}

/// Whether scales depend on sums over a block, which NaN and infinity spread through.
bool sums_over_blocks(const QuantSpec& spec) {
  switch (spec.scale) {
    case ScaleRule::QuestFloor:
    case ScaleRule::QuestNearest:
    case ScaleRule::QuestCeil:
    case ScaleRule::QuestExact:
    case ScaleRule::Sawb: return true;
    default: return spec.nvfp4.selection != Selection::None || spec.rounding == Rounding::Eden;
  }
}

bool failed() { return testing::Test::HasFatalFailure() || testing::Test::HasNonfatalFailure(); }

Hadamard rotation(std::int64_t group, Hadamard::Signs signs, bool signs_last = false) {
  return {group, signs, signs_last};
}

/// All cases, and the forms that quantize_cases.h leaves out.
std::vector<Case> all_cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  std::vector<Case> list = cases();
  const Granularity row = Granularity::per_row();
  const auto add = [&](const char* name, QuantSpec spec, ElementFormat carrier) {
    spec.carrier = carrier;
    list.push_back({name, spec});
  };
  add("carried row", quantiser(E2M1, row, AbsmaxPow2, NearestUp), E4M3);
  add("carried columns", trusted(quantiser(E2M1, Granularity::per_column(), AbsmaxPow2, NearestUp)), E4M3);
  add("carried nvfp4", quantiser(E2M1, Granularity::block(1, 16), Nvfp4), E5M2);
  add("carried double block", nvfp4(quantiser(E2M1, Granularity::block(1, 16), Nvfp4), {6, 448, 1, 64, {}}), E4M3);
  add("carried int4 range match", quantiser(Int4, Granularity::block(1, 32), RangeMatch34), E4M3);
  add("carried e3m0", quantiser(E3M0, Granularity::per_tensor(), Absmax, Stochastic), E5M2);
  add("carried clamp", with_clamp(quantiser(E2M1, row, AbsmaxPow2), 0.95, true, ResidualMode::Sparse), E4M3);
  const auto plain = [&](const char* name, const QuantSpec& spec) { list.push_back({name, spec}); };
  plain("row dense", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.9, true, ResidualMode::Dense));
  plain("tensor dense", with_clamp(quantiser(E4M3, row, Absmax), 0.95, false, ResidualMode::Dense));
  plain("nvfp4 dense",
        with_clamp(trusted(quantiser(E2M1, Granularity::block(16, 16), Nvfp4)), 0.9, true, ResidualMode::Dense));
  plain("row fused", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.99, true, ResidualMode::Fused));
  plain("row fused, stochastic",
        with_clamp(quantiser(E2M1, row, AbsmaxPow2, Stochastic), 0.9, true, ResidualMode::Fused));
  plain("row fused, tensor bounds", with_clamp(quantiser(E2M1, row, Absmax), 0.95, false, ResidualMode::Fused));
  plain("tensor fused", with_clamp(quantiser(E2M1, Granularity::per_tensor(), AbsmaxPow2, NearestZero), 0.9, false,
                                   ResidualMode::Fused));
  plain("tensor fused, row bounds",
        with_clamp(quantiser(E2M1, Granularity::per_tensor(), Absmax, Stochastic8), 0.9, true, ResidualMode::Fused));
  plain("fused towards a reference",
        with_clamp(quantiser(E2M1, row, Absmax, Reference), 0.9, true, ResidualMode::Fused));
  plain("clamp at one", with_clamp(quantiser(E2M1, row, Absmax), 1.0, true, ResidualMode::Sparse));
  plain("clamp at the median", with_clamp(quantiser(E2M1, row, Absmax), 0.5, true, ResidualMode::Sparse));
  plain("f32 clamp", with_clamp(quantiser(F32, row, None), 0.8, false, ResidualMode::Sparse));
  plain("blocks of 8", quantiser(E2M1, Granularity::block(1, 8), Absmax, NearestUp));
  plain("blocks of 64", trusted(quantiser(E2M1, Granularity::block(1, 64), QuestNearest)));
  plain("blocks of 256", quantiser(Int4, Granularity::block(1, 256), Sawb, Stochastic));
  plain("blocks of 128, 4/6",
        nvfp4(quantiser(E2M1, Granularity::block(1, 128), Nvfp4), {6, 256, 0, 256, Selection::Mae}));
  plain("blocks of 12, 4/6", nvfp4(quantiser(E2M1, Granularity::block(1, 12), Nvfp4), {6, 256, 0, 36, Selection::Mse}));
  plain("eden group 256", eden_group(nvfp4(quantiser(E2M1, Granularity::block(1, 16), Nvfp4, Eden), kEdenScale), 256));
  plain("eden group 48", eden_group(nvfp4(quantiser(E2M1, Granularity::block(1, 16), Nvfp4, Eden), kEdenScale), 48));
  plain("eden group 1024",
        eden_group(nvfp4(quantiser(E2M1, Granularity::block(1, 16), Nvfp4, Eden), kEdenScale), 1024));
  plain("nvfp4 row", quantiser(E2M1, row, Nvfp4, Stochastic));
  plain("reference columns", quantiser(E2M1, Granularity::per_column(), Absmax, Reference));
  return list;
}

class CudaQuantizeShapes : public testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

TEST_P(CudaQuantizeShapes, EverySpecGivesTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  const auto [rows, cols] = GetParam();
  std::uint64_t seed = 31000 * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(cols);
  for (const Case& c : all_cases()) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      for (const bool transposed : {false, true}) {
        Case turned = c;
        turned.spec.transposed = transposed;
        SCOPED_TRACE(testing::Message() << c.name << (c.spec.bf16_input ? " bf16_input" : "")
                                        << (transposed ? " transposed, " : ", ") << dtype_name(dtype) << " [" << rows
                                        << ", " << cols << "], seed " << ++seed);
        std::vector<float> values = awkward_values(rows * cols, seed);
        const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
        const CaseContext given = case_context(turned, x, seed);
        expect_same_on_gpu(x, turned.spec, given.context);
        if (failed()) return;
      }
    }
  }
}

TEST_P(CudaQuantizeShapes, FoldsAreMultipliedInAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  const auto [rows, cols] = GetParam();
  std::uint64_t seed = 77000 + static_cast<std::uint64_t>(rows * cols);
  for (const Case& c : all_cases()) {
    if (c.spec.rounding == Rounding::Reference) continue;
    ++seed;
    const DType dtype = seed % 2 == 0 ? DType::F32 : DType::BF16;
    SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype) << " [" << rows << ", " << cols << "], seed "
                                    << seed);
    std::vector<float> values = awkward_values(rows * cols, seed);
    const OwnedTensor x = reference::make_tensor(dtype, rows, cols, values);
    std::vector<float> row_factors = reference::gaussian(static_cast<std::size_t>(rows), seed + 1);
    std::vector<float> col_factors = reference::gaussian(static_cast<std::size_t>(cols), seed + 2);
    const OwnedTensor row_fold = reference::make_tensor(DType::F32, 1, rows, row_factors);
    const OwnedTensor col_fold = reference::make_tensor(DType::F32, 1, cols, col_factors);
    QuantizeContext context;
    if (seed % 3 != 0) context.row_fold = row_fold;
    if (seed % 3 != 1) context.col_fold = col_fold;
    expect_same_on_gpu(x, c.spec, context);
    if (failed()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Awkward, CudaQuantizeShapes,
                         testing::Values(std::pair{1, 1}, std::pair{1, 37}, std::pair{37, 1}, std::pair{3, 64},
                                         std::pair{17, 129}, std::pair{130, 31}, std::pair{33, 200}, std::pair{64, 96},
                                         std::pair{160, 272}));

TEST(CudaQuantize, TransformsOfEveryGroupAndSign) {
  NIBBLE_NEEDS_GPU();
  using enum Hadamard::Signs;
  constexpr std::int64_t kRows = 256;
  constexpr std::int64_t kCols = 512;
  std::uint64_t seed = 400;
  std::size_t next = 0;
  const std::vector<Case> list = all_cases();
  for (const std::int64_t group : {2, 4, 8, 16, 32, 64, 128, 256}) {
    for (const Hadamard::Signs signs : {Plus, Vector, Step}) {
      for (const bool signs_last : {false, true}) {
        for (const bool transposed : {false, true}) {
          if (signs == Vector && group != 16) continue;
          for (int of_these = 0; of_these < 6; ++of_these) {  // all cases come in turn
            Case c = list[next++ % list.size()];
            c.spec.hadamard = rotation(group, signs, signs_last);
            c.spec.transposed = transposed;
            const DType dtype = ++seed % 3 == 0 ? DType::F32 : DType::BF16;
            SCOPED_TRACE(testing::Message() << c.name << " group " << group << " signs " << static_cast<int>(signs)
                                            << (signs_last ? " last" : "") << (transposed ? " transposed, " : ", ")
                                            << dtype_name(dtype) << ", seed " << seed);
            std::vector<float> values = awkward_values(kRows * kCols, seed);
            const OwnedTensor x = reference::make_tensor(dtype, kRows, kCols, values);
            const CaseContext given = case_context(c, x, seed);
            expect_same_on_gpu(x, c.spec, given.context);
            if (failed()) return;
          }
        }
      }
    }
  }
}

/// What the recipes ask for most.
std::vector<Case> recipe_cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  const Granularity row = Granularity::per_row();
  const auto block = [](int r, int c) { return Granularity::block(r, c); };
  const auto rotated = [](QuantSpec spec, std::int64_t group, Hadamard::Signs signs) {
    spec.hadamard = rotation(group, signs);
    return spec;
  };
  return {
      {"row clamp", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.99, true, ResidualMode::Sparse)},
      {"row fused", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.99, true, ResidualMode::Fused)},
      {"row", quantiser(E2M1, row, Absmax, NearestUp)},
      {"e4m3 row", quantiser(E4M3, row, Absmax)},
      {"e4m3 column", quantiser(E4M3, Granularity::per_column(), Absmax)},
      {"e5m2 tensor", quantiser(E5M2, Granularity::per_tensor(), AbsmaxPow2)},
      {"int4 sawb", quantiser(Int4, Granularity::per_tensor(), Sawb)},
      {"e3m0 tensor", quantiser(E3M0, Granularity::per_tensor(), Absmax, Stochastic)},
      {"nvfp4", quantiser(E2M1, block(1, 16), Nvfp4)},
      {"nvfp4 tiles", quantiser(E2M1, block(16, 16), Nvfp4)},
      {"nvfp4 rotated", rotated(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic8), 16, Hadamard::Signs::Vector)},
      {"4/6", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 1, 0, Selection::Mse})},
      {"eden", rotated(nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Eden), kEdenScale), 128, Hadamard::Signs::Call)},
      {"quest", rotated(trusted(quantiser(E2M1, block(1, 32), QuestFloor, NearestZero)), 32, Hadamard::Signs::Plus)},
      {"range match", rotated(quantiser(E2M1, block(1, 32), RangeMatch34, Stochastic), 64, Hadamard::Signs::Call)},
      {"ceil6", quantiser(E2M1, block(1, 32), Ceil6, Stochastic)},
      {"reference", quantiser(E2M1, block(1, 32), Ceil6, Reference)},
      {"e4m3 blocks", quantiser(E4M3, block(1, 128), Absmax)},
  };
}

TEST(CudaQuantize, HotShapesGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 9000;
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{512, 2048},
                                   {256, 5632},
                                   {384, 768},
                                   {64, 16384},
                                   {64, 16512},
                                   {1024, 320}}) {
    std::vector<float> values = awkward_values(rows * cols, ++seed);
    const OwnedTensor floats = reference::make_tensor(DType::F32, rows, cols, values);
    const OwnedTensor halves = reference::make_tensor(DType::BF16, rows, cols, values);
    for (Case c : recipe_cases()) {
      for (const bool transposed : {false, true}) {
        c.spec.transposed = transposed;
        const OwnedTensor& x = ++seed % 3 == 0 ? floats : halves;
        SCOPED_TRACE(testing::Message() << c.name << (transposed ? " transposed, " : ", ") << to_string(x) << ", seed "
                                        << seed);
        if ((transposed ? rows : cols) % std::max<std::int64_t>(1, c.spec.hadamard.group) != 0) continue;
        const CaseContext given = case_context(c, x, seed);
        expect_same_on_gpu(x, c.spec, given.context);
        if (failed()) return;
      }
    }
  }
}

/// Finite floats of every exponent; `kind` 1 keeps to BF16's, 2 to few exponents, so that sums do not overflow.
std::vector<float> wild_values(std::int64_t n, std::uint64_t seed, int kind) {
  std::mt19937_64 engine(seed);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& v : x) {
    auto bits = static_cast<std::uint32_t>(engine());
    if (kind == 1) bits &= 0xFFFF'0000u;
    if (kind == 2) bits = (bits & 0x83FF'FFFFu) + 0x3C00'0000u;
    if ((bits & 0x7F80'0000u) == 0x7F80'0000u) bits &= 0xFF00'0000u;
    v = std::bit_cast<float>(bits);
  }
  return x;
}

TEST(CudaQuantize, FloatsOfEveryExponentGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 50;
  for (const Case& c : all_cases()) {
    // Squares of the largest floats are infinite, and a sum with NaN has no bits to promise.
    const bool sums = sums_over_blocks(c.spec);
    for (int kind = sums ? 2 : 0; kind < 3; ++kind) {
      SCOPED_TRACE(testing::Message() << c.name << ", kind " << kind << ", seed " << ++seed);
      std::vector<float> values = wild_values(48 * 160, seed, kind);
      const OwnedTensor x = reference::make_tensor(kind == 1 ? DType::BF16 : DType::F32, 48, 160, values);
      const CaseContext given = case_context(c, x, seed);
      expect_same_on_gpu(x, c.spec, given.context);
      if (failed()) return;
    }
  }
}

TEST(CudaQuantize, ZeroSubnormalHugeAndInfiniteInputsGiveTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : all_cases()) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      for (std::vector<float> values : extreme_rows()) {
        // An infinite sum or bound makes NaN somewhere, whose bits are not promised.
        const bool finite = std::all_of(values.begin(), values.end(), [](float v) { return std::abs(v) < 1e19f; });
        if (!finite && (sums_over_blocks(c.spec) || c.spec.clamp.enabled())) continue;
        SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype) << ", first value " << values[0]);
        const OwnedTensor x = reference::make_tensor(dtype, 1, 5, values);
        const CaseContext given = case_context(c, x, 9);
        expect_same_on_gpu(x, c.spec, given.context);
        if (failed()) return;
      }
    }
  }
}

TEST(CudaQuantize, EveryBf16ValueRoundsAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  using enum ElementFormat;
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 0x8000u; ++bits) {
    values.push_back(std::bit_cast<float>((bits < 0x7F80u ? bits : 0x7F7Fu) << 16));
    values.push_back(-values.back());
  }
  const OwnedTensor x = reference::make_tensor(DType::BF16, 128, 512, values);
  for (const ElementFormat element : {E2M1, Int4, E3M0, E4M3, E5M2}) {
    for (const Rounding rounding : {Rounding::NearestEven, Rounding::NearestUp, Rounding::NearestZero,
                                    Rounding::NearestAway, Rounding::Stochastic, Rounding::Stochastic8}) {
      if (!is_four_bit(element) && rounding != Rounding::NearestEven) continue;
      if (element != E2M1 && rounding == Rounding::Stochastic8) continue;
      for (const ScaleRule rule :
           {ScaleRule::Absmax, ScaleRule::AbsmaxPow2, ScaleRule::OcpFloor, ScaleRule::Ceil6, ScaleRule::Nearest6}) {
        for (const Granularity granularity : {Granularity::per_row(), Granularity::block(1, 32)}) {
          SCOPED_TRACE(testing::Message() << "element " << static_cast<int>(element) << " rounding "
                                          << static_cast<int>(rounding) << " rule " << static_cast<int>(rule));
          expect_same_on_gpu(x, quantiser(element, granularity, rule, rounding), {});
          if (failed()) return;
        }
      }
    }
  }
}

TEST(CudaQuantize, NaNFollowsTheRuleOfTheFormat) {
  NIBBLE_NEEDS_GPU();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::F32, DType::BF16}) {
    std::vector<float> values = {nan, -nan, 1.0f, -2.0f, 0.0f};
    const OwnedTensor x = reference::make_tensor(dtype, 1, 5, values);
    for (const Case& c : all_cases()) {
      if (!has_scale(c.spec.element) || sums_over_blocks(c.spec) || c.spec.clamp.enabled()) continue;
      SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype));
      const CaseContext given = case_context(c, x, 9);
      expect_same_on_gpu(x, c.spec, given.context);
      if (failed()) return;
    }
  }
}

TEST(CudaQuantize, RandomNumbersFollowTheElementAcrossFourBillion) {
  NIBBLE_NEEDS_GPU();
  std::vector<float> values = awkward_values(40 * 96, 3);
  const OwnedTensor x = reference::make_tensor(DType::BF16, 40, 96, values);
  for (const Rounding rounding : {Rounding::Stochastic, Rounding::Stochastic8, Rounding::Eden}) {
    for (const std::uint64_t offset :
         {0ull, 1ull, 2ull, 3ull, 5ull, 7ull, 8ull, 11ull, 14ull, 0xFFFF'FFF3ull, 0x3FFFF'FFFDull}) {
      for (const std::uint64_t stride : {0ull, 97ull, 0x8000'0001ull}) {
        for (const bool transposed : {false, true}) {
          SCOPED_TRACE(testing::Message()
                       << "rounding " << static_cast<int>(rounding) << " offset " << offset << " stride " << stride);
          QuantizeContext context;
          context.random = {0x1234'5678'9ABC'DEFull, 0xFFFF'FFFFu, 77};
          context.element_offset = offset;
          context.element_stride = stride;
          QuantSpec spec =
              nvfp4(quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4, rounding), kEdenScale);
          spec.transposed = transposed;
          expect_same_on_gpu(x, spec, context);
          if (failed()) return;
        }
      }
    }
  }
}

// Values whose distance from the element below, in steps, is the random number or next to it.
TEST(CudaQuantize, StochasticRoundingAtTheRandomNumberGivesTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  using enum ElementFormat;
  const std::int64_t rows = 96;
  const std::int64_t cols = 2048;
  const RandomStream random{11, 3, 5};
  const float elements[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  std::mt19937 engine(4);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::uint32_t below = engine() % 7;
    const float step = elements[below + 1] - elements[below];
    float v = elements[below] + uniform24(random.word(static_cast<std::uint64_t>(i))) * step;  // cut to a float's bits
    const std::uint32_t next = engine() % 3;
    if (next != 0) v = std::nextafter(v, next == 1 ? 0.0f : 6.0f);
    x[static_cast<std::size_t>(i)] = engine() % 2 == 0 ? v : -v;
  }
  for (std::int64_t r = 0; r < rows; ++r) x[static_cast<std::size_t>(r * cols)] = 6;  // so the scale of a row is 1
  const Case cases[] = {
      {"rows", quantiser(E2M1, Granularity::per_row(), ScaleRule::Absmax, Rounding::Stochastic)},
      {"tensor", quantiser(E2M1, Granularity::per_tensor(), ScaleRule::Absmax, Rounding::Stochastic)},
      {"blocks", quantiser(E2M1, Granularity::block(1, 2048), ScaleRule::Ceil6, Rounding::Stochastic)}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const Tensor here = Tensor::of(x.data(), {rows, cols});
    const OwnedTensor there = on_gpu(here);
    QuantizeContext context;
    context.random = random;
    Arena arena;
    Arena gpu(Device::Cuda);
    expect_same_qtensor(quantize(here, c.spec, context, arena), quantize(there, c.spec, context, gpu));
  }
}

TEST(CudaQuantize, EmptyTensorsGiveEmptyResults) {
  NIBBLE_NEEDS_GPU();
  for (Case c : all_cases()) {
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{0, 8}, {0, 0}}) {
      for (const bool transposed : {false, true}) {
        c.spec.transposed = transposed;
        SCOPED_TRACE(c.name);
        const OwnedTensor x(DType::F32, {rows, cols});
        const CaseContext given = case_context(c, x, 1);
        expect_same_on_gpu(x, c.spec, given.context);
        if (failed()) return;
      }
    }
  }
}

TEST(CudaQuantize, TwoRunsGiveTheSameBits) {
  NIBBLE_NEEDS_GPU();
  std::vector<float> values = awkward_values(512 * 1024, 8);
  const OwnedTensor x = reference::make_tensor(DType::BF16, 512, 1024, values);
  const OwnedTensor on_device = on_gpu(x);
  for (const Case& c : recipe_cases()) {
    SCOPED_TRACE(c.name);
    const CaseContext given = case_context(c, x, 4);
    const GpuContext context(given.context);
    Arena first_arena(Device::Cuda);
    Arena second_arena(Device::Cuda);
    const QTensor first = quantize(on_device, c.spec, *context, first_arena);
    const QTensor second = quantize(on_device, c.spec, *context, second_arena);
    expect_same_bits(first.codes, second.codes, "codes");
    expect_same_bits(first.scales, second.scales, "scales");
  }
}

}  // namespace
}  // namespace nibble
