// A pair of operands on the GPU has the bits of the CPU's two, and of the GPU's two in the forms of products.
#include <bit>

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"
#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using testing_support::expect_same_bits;
using testing_support::GpuContext;
using testing_support::on_cpu;
using testing_support::on_gpu;
using testing_support::whole_scale;

struct Dims {
  std::int64_t rows, cols;
};

OwnedTensor tensor_of(DType dtype, std::int64_t rows, std::int64_t cols, std::vector<float> values) {
  return reference::make_tensor(dtype, rows, cols, values);
}

Arena& gpu_arena() {
  static Arena& arena = *new Arena(Device::Cuda);  // kept: at exit the driver may be gone before it
  return arena;
}

OwnedTensor there(const Tensor& x) {
  return x.numel() > 0 ? on_gpu(x) : OwnedTensor(x.dtype(), x.shape(), Device::Cuda);
}

void expect_same_part(const Tensor& want, const Tensor& got, const char* what) {
  ASSERT_EQ(want.defined(), got.defined()) << what;
  if (want.defined() && want.numel() > 0) expect_same_bits(want, got, what);
}

/// `got` is stored as `want` is.
void expect_same_operand(const QTensor& want, const QTensor& got) {
  ASSERT_EQ(want.element, got.element);
  ASSERT_EQ(want.rows, got.rows);
  ASSERT_EQ(want.cols, got.cols);
  ASSERT_EQ(want.granularity, got.granularity);
  ASSERT_EQ(want.scale_format, got.scale_format);
  ASSERT_EQ(want.turned, got.turned);
  ASSERT_EQ(want.hadamard, got.hadamard);
  if (want.rows * want.cols == 0) return;
  EXPECT_EQ(std::bit_cast<std::uint32_t>(whole_scale(want)), std::bit_cast<std::uint32_t>(whole_scale(got)));
  expect_same_part(want.codes, got.codes, "codes");
  expect_same_part(want.scales, got.scales, "scales");
}

/// `got` is stored as the transpose of `want`, which has codes of a byte under one scale a column.
void expect_turned_operand(const QTensor& want, const QTensor& got) {
  ASSERT_TRUE(got.turned);
  ASSERT_EQ(want.element, got.element);
  ASSERT_EQ(want.rows, got.cols);
  ASSERT_EQ(want.cols, got.rows);
  ASSERT_EQ(got.granularity, Granularity::per_row());
  if (want.rows * want.cols == 0) return;
  const OwnedTensor turned(DType::U8, {want.cols, want.rows});
  const auto* from = want.codes.data<std::uint8_t>();
  auto* to = turned.view().data<std::uint8_t>();
  for (std::int64_t r = 0; r < want.rows; ++r) {
    for (std::int64_t c = 0; c < want.cols; ++c) to[c * want.rows + r] = from[r * want.cols + c];
  }
  expect_same_bits(turned, got.codes, "turned codes");
  expect_same_bits(want.scales, got.scales, "turned scales");
}

/// Numbers of every size among ordinary ones; a row and a column of zeros, and where infinities are wanted some in rows
/// and columns of their own.
OwnedTensor values(DType dtype, Dims dims, std::uint64_t seed, bool infinities) {
  const auto [rows, cols] = dims;
  std::vector<float> x = awkward_values(rows * cols, seed);
  const auto at = [&](std::int64_t r, std::int64_t c) -> float& { return x[static_cast<std::size_t>(r * cols + c)]; };
  const std::vector<std::vector<float>> extremes = extreme_rows();
  for (std::size_t i = 0; i < extremes.size() && infinities; ++i) {
    const std::int64_t r = static_cast<std::int64_t>(i) * 3 + 1;
    for (std::int64_t c = 0; c < cols && r < rows; ++c) at(r, c) = c < 5 ? extremes[i][static_cast<std::size_t>(c)] : 0;
  }
  for (std::int64_t c = 0; c < cols && rows > 2; ++c) at(rows - 2, c) = c % 2 == 0 ? 0.0f : -0.0f;
  for (std::int64_t r = 0; r < rows && cols > 7; ++r) at(r, 7) = 0;
  for (std::int64_t r = 0; r < rows && cols > 9; ++r) at(r, 9) *= 1e-41f;
  return tensor_of(dtype, rows, cols, x);
}

QuantizeContext context_of(std::uint64_t seed, bool for_product) {
  QuantizeContext context;
  context.random = {seed, 3, 5};
  context.signs = {seed, 4, 6};
  context.element_offset = 48;
  context.for_product = for_product;
  return context;
}

void check_fp8(const OwnedTensor& x, const OwnedTensor& x_gpu, ElementFormat element, bool folds, std::uint64_t seed) {
  const std::int64_t rows = x.view().rows();
  const std::int64_t cols = x.view().cols();
  const QuantSpec a = quantiser(element, Granularity::per_row(), ScaleRule::Absmax);
  const QuantSpec b = quantiser(element, Granularity::per_column(), ScaleRule::Absmax);
  const auto factors = [&](std::int64_t n, std::uint64_t of) {
    return tensor_of(DType::F32, 1, n, reference::gaussian(static_cast<std::size_t>(n), of));
  };
  const OwnedTensor col_fold = factors(cols, seed + 1);
  const OwnedTensor row_fold = factors(rows, seed + 2);
  QuantizeContext in_a = context_of(seed, true);
  QuantizeContext in_b = context_of(seed, true);
  if (folds && rows * cols > 0) in_a.col_fold = col_fold;
  if (folds && rows * cols > 0) in_b.row_fold = row_fold;
  const GpuContext gpu_a(in_a);
  const GpuContext gpu_b(in_b);
  Arena arena;
  const ArenaScope scope(gpu_arena());
  const QuantizedPair got = quantize_pair(x_gpu, a, *gpu_a, b, *gpu_b, gpu_arena());
  expect_same_operand(quantize(x, a, in_a, arena), got.first);
  expect_turned_operand(quantize(x, b, in_b, arena), got.second);

  // Magnitudes that somebody else found: the same, where they are asked for.
  const PairMagnitudes known = pair_magnitudes(x_gpu, a, *gpu_a, b, *gpu_b, gpu_arena());
  EXPECT_EQ(known.defined(), rows * cols > 0 && rows % 16 == 0 && cols % 16 == 0);
  if (!known.defined()) return;
  raise_magnitudes(x_gpu, known);
  const QuantizedPair of_known = quantize_pair(x_gpu, a, *gpu_a, b, *gpu_b, gpu_arena(), known);
  expect_same_part(on_cpu(got.first.codes), of_known.first.codes, "codes by rows, of known magnitudes");
  expect_same_part(on_cpu(got.first.scales), of_known.first.scales, "scales by rows, of known magnitudes");
  expect_same_part(on_cpu(got.second.codes), of_known.second.codes, "codes by columns, of known magnitudes");
  expect_same_part(on_cpu(got.second.scales), of_known.second.scales, "scales by columns, of known magnitudes");
}

TEST(CudaPair, Fp8ByRowsAndColumnsHasTheBitsOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 100;
  for (const auto& [rows, cols] :
       {Dims{2048, 5632}, Dims{128, 64}, Dims{16, 16}, Dims{144, 272}, Dims{272, 1040}, Dims{4112, 48}, Dims{48, 4112},
        Dims{37, 83}, Dims{40, 64}, Dims{64, 40}, Dims{1, 64}, Dims{64, 1}, Dims{0, 64}}) {
    for (const DType dtype : {DType::BF16, DType::F32}) {
      for (const bool folds : {false, true}) {
        for (const bool infinities : {false, true}) {
          for (const ElementFormat element : {ElementFormat::E4M3, ElementFormat::E5M2}) {
            if (rows * cols > 1 << 20 && (infinities || element == ElementFormat::E5M2)) continue;
            SCOPED_TRACE(testing::Message()
                         << dtype_name(dtype) << " [" << rows << ", " << cols << "]" << (folds ? ", folds" : "")
                         << (infinities ? ", infinities" : "") << (element == ElementFormat::E4M3 ? ", e4m3" : ", e5m2")
                         << ", seed " << ++seed);
            const OwnedTensor x = values(dtype, {rows, cols}, seed, infinities);
            check_fp8(x, there(x), element, folds, seed);
            if (HasFatalFailure() || HasNonfatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(CudaPair, Fp8KeepsTheSignOfWhatIsNoNumber) {
  NIBBLE_NEEDS_GPU();
  for (const DType dtype : {DType::BF16, DType::F32}) {
    OwnedTensor x = values(dtype, {144, 80}, 7, false);
    for (const auto& [r, c, bits] : {std::tuple{3, 5, 0xFFC0'0000u}, std::tuple{3, 6, 0x7FC0'0000u},
                                     std::tuple{70, 79, 0xFFC0'0000u}, std::tuple{143, 0, 0x7FC0'0000u}}) {
      if (dtype == DType::F32) {
        x.view().data<float>()[r * 80 + c] = std::bit_cast<float>(bits);
      } else {
        x.view().data<bf16>()[r * 80 + c] = bf16{static_cast<std::uint16_t>(bits >> 16)};
      }
    }
    check_fp8(x, there(x), ElementFormat::E4M3, false, 8);
    check_fp8(x, there(x), ElementFormat::E5M2, false, 8);
  }
}

TEST(CudaPair, Fp8OfATensorThatIsNotAligned) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = values(DType::BF16, {64, 96}, 9, false);
  const OwnedTensor memory(DType::BF16, {64 * 96 + 1}, Device::Cuda);
  const Tensor shifted(memory.view().data<bf16>() + 1, DType::BF16, {64, 96}, Device::Cuda);
  copy(x, shifted);
  const QuantSpec a = quantiser(ElementFormat::E4M3, Granularity::per_row(), ScaleRule::Absmax);
  const QuantSpec b = quantiser(ElementFormat::E4M3, Granularity::per_column(), ScaleRule::Absmax);
  const QuantizeContext context = context_of(1, true);
  Arena arena;
  const ArenaScope scope(gpu_arena());
  const QuantizedPair got = quantize_pair(shifted, a, context, b, context, gpu_arena());
  expect_same_operand(quantize(x, a, context, arena), got.first);
  expect_turned_operand(quantize(x, b, context, arena), got.second);
}

/// Pairs under one Nvfp4 scale of the tensor, and some that look like them.
std::vector<std::pair<QuantSpec, QuantSpec>> nvfp4_pairs() {
  using enum Rounding;
  const auto spec = [](Rounding rounding, bool transposed, std::int64_t group) {
    QuantSpec s = quantiser(ElementFormat::E2M1, Granularity::block(1, 16), ScaleRule::Nvfp4, rounding);
    s.transposed = transposed;
    s.hadamard.group = group;
    s.hadamard.signs = group == 16 ? Hadamard::Signs::Vector
                       : group > 0 ? Hadamard::Signs::Call
                                   : Hadamard::Signs::Plus;
    if (rounding == Eden) s.nvfp4 = kEdenScale;
    return s;
  };
  QuantSpec select = nvfp4(spec(NearestEven, false, 0), {6, 256, 1, 0, Selection::Mse});
  QuantSpec squares = spec(NearestEven, false, 0);
  squares.granularity = Granularity::block(16, 16);
  QuantSpec narrowed = spec(Stochastic8, true, 16);
  narrowed.bf16_input = true;
  QuantSpec stretches = nvfp4(spec(NearestEven, false, 0), {6, 448, 0, 128, Selection::None});
  return {{spec(Stochastic8, false, 0), spec(Stochastic8, true, 16)},
          {spec(NearestEven, false, 0), spec(NearestEven, true, 16)},
          {spec(Stochastic, false, 0), spec(Stochastic, true, 0)},
          {select, spec(Stochastic, true, 128)},
          {squares, spec(NearestUp, true, 32)},
          {spec(Eden, false, 128), spec(Eden, true, 128)},
          {spec(Stochastic8, false, 0), narrowed},
          {stretches, spec(NearestEven, true, 16)},
          {quantiser(ElementFormat::E4M3, Granularity::per_row(), ScaleRule::Absmax), spec(NearestEven, true, 16)}};
}

TEST(CudaPair, Nvfp4HasTheBitsOfTheCpuAndOfTwoCalls) {
  NIBBLE_NEEDS_GPU();
  std::uint64_t seed = 500;
  for (const auto& [rows, cols] :
       {Dims{512, 2048}, Dims{128, 128}, Dims{256, 640}, Dims{384, 83}, Dims{128, 1}, Dims{0, 64}}) {
    for (const DType dtype : {DType::BF16, DType::F32}) {
      std::size_t number = 0;
      for (const auto& [a, b] : nvfp4_pairs()) {
        SCOPED_TRACE(testing::Message() << "pair " << number++ << " " << dtype_name(dtype) << " [" << rows << ", "
                                        << cols << "], seed " << ++seed);
        if (cols % std::max<std::int64_t>(1, a.hadamard.group) != 0) continue;
        const OwnedTensor x = values(dtype, {rows, cols}, seed, false);
        const OwnedTensor x_gpu = there(x);
        Arena arena;
        const ArenaScope scope(gpu_arena());
        for (const bool for_product : {false, true}) {
          const QuantizeContext in_a = context_of(seed, for_product);
          const QuantizeContext in_b = context_of(seed + 1, for_product);
          const QuantizedPair got = quantize_pair(x_gpu, a, in_a, b, in_b, gpu_arena());
          expect_same_operand(quantize(x_gpu, a, in_a, gpu_arena()), got.first);
          expect_same_operand(quantize(x_gpu, b, in_b, gpu_arena()), got.second);
          if (for_product) continue;
          expect_same_operand(quantize(x, a, in_a, arena), got.first);
          expect_same_operand(quantize(x, b, in_b, arena), got.second);
        }
        if (HasFatalFailure() || HasNonfatalFailure()) return;
      }
    }
  }
}

TEST(CudaPair, AnAmaxIsFoundOnceAndThenBelieved) {
  NIBBLE_NEEDS_GPU();
  const auto [a, b] = nvfp4_pairs()[0];
  const OwnedTensor x = values(DType::BF16, {144, 208}, 11, false);
  const OwnedTensor x_gpu = on_gpu(x);
  const ArenaScope scope(gpu_arena());
  QuantizeContext in_a = context_of(1, false);
  QuantizeContext in_b = context_of(2, false);
  const QTensor want_a = quantize(x_gpu, a, in_a, gpu_arena());
  const QTensor want_b = quantize(x_gpu, b, in_b, gpu_arena());
  const AmaxPair amax = amax_pair(x_gpu, a, in_a, b, in_b, gpu_arena());
  ASSERT_TRUE(amax.first.defined());
  ASSERT_TRUE(amax.second.defined());
  float largest = 0;
  for (const bf16 v : std::span(x.view().data<bf16>(), static_cast<std::size_t>(x.view().numel()))) {
    largest = std::max(largest, std::abs(bf16_decode(v)));
  }
  EXPECT_EQ(on_cpu(amax.first).view().data<std::int32_t>()[0], std::bit_cast<std::int32_t>(largest));
  in_a.amax = amax.first;
  in_b.amax = amax.second;
  expect_same_operand(want_a, quantize(x_gpu, a, in_a, gpu_arena()));
  expect_same_operand(want_b, quantize(x_gpu, b, in_b, gpu_arena()));

  OwnedTensor twice(DType::I32, {1});
  twice.view().data<std::int32_t>()[0] = std::bit_cast<std::int32_t>(2 * largest);
  const OwnedTensor twice_gpu = on_gpu(twice);
  in_a.amax = twice_gpu;
  EXPECT_EQ(whole_scale(quantize(x_gpu, a, in_a, gpu_arena())), 2 * whole_scale(want_a));
}

TEST(CudaPair, NoAmaxIsSharedWhereOneOfTheTwoIsOfSomethingElse) {
  NIBBLE_NEEDS_GPU();
  const auto [a, b] = nvfp4_pairs()[0];
  const OwnedTensor x = on_gpu(values(DType::F32, {128, 256}, 12, false));
  const OwnedTensor fold = on_gpu(tensor_of(DType::F32, 1, 256, reference::gaussian(256, 1)));
  const ArenaScope scope(gpu_arena());
  const QuantizeContext context = context_of(1, false);
  const auto shares = [&](const QuantSpec& first, const QuantizeContext& in_first, const QuantSpec& second) {
    const AmaxPair amax = amax_pair(x, first, in_first, second, context, gpu_arena());
    EXPECT_EQ(amax.first.defined(), amax.second.defined());
    return amax.first.defined();
  };
  EXPECT_TRUE(shares(a, context, b));
  QuantizeContext folded = context;
  folded.col_fold = fold;
  EXPECT_FALSE(shares(a, folded, b));
  QuantSpec other = b;
  other.bf16_input = true;
  EXPECT_FALSE(shares(a, context, other));
  other = a;
  other.hadamard = b.hadamard;
  EXPECT_FALSE(shares(other, context, b));
  other = a;
  other.clamp = {0.99, true, ResidualMode::None};
  EXPECT_FALSE(shares(other, context, b));
  other = b;
  other.nvfp4.outer = 128;
  EXPECT_FALSE(shares(a, context, other));
}

}  // namespace
}  // namespace nibble
