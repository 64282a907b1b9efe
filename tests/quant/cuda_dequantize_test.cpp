#include "tests/quant/cuda_qtensor.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {
namespace {

using namespace testing_support;

void expect_same_values(const QTensor& q, const char* what) {
  const GpuQTensor gpu = as_quantised_on_gpu(q);
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const OwnedTensor want(dtype, {q.rows, q.cols});
    const OwnedTensor got(dtype, {q.rows, q.cols}, Device::Cuda);
    dequantize(q, want);
    dequantize(gpu.q, got);
    expect_same_bits(want, got, what);
  }
}

TEST(CudaDequantize, GivesTheCpusBitsForEveryKindOfQTensor) {
  NIBBLE_NEEDS_GPU();
  const std::pair<std::int64_t, std::int64_t> shapes[] = {{37, 272}, {130, 83}, {1, 200}, {5, 1}, {1, 1}};
  std::uint64_t seed = 0;
  for (const Case& c : cases()) {
    for (const auto& [rows, cols] : shapes) {
      ++seed;
      SCOPED_TRACE(testing::Message() << c.name << " [" << rows << ", " << cols << "] seed " << seed);
      std::vector<float> x = awkward_values(rows * cols, seed);
      const Tensor tensor = Tensor::of(x.data(), {rows, cols});
      const CaseContext given = case_context(c, tensor, seed);
      Arena arena;
      expect_same_values(quantize(tensor, c.spec, given.context, arena), c.name);
    }
  }
}

TEST(CudaDequantize, GivesTheCpusBitsForOtherForms) {
  NIBBLE_NEEDS_GPU();
  std::vector<float> x = awkward_values(64 * 96, 3);
  const Tensor tensor = Tensor::of(x.data(), {64, 96});
  for (const ElementFormat carrier : {ElementFormat::E4M3, ElementFormat::E5M2}) {
    QuantSpec spec = with_clamp(quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax), 0.97, true,
                                ResidualMode::Sparse);
    spec.carrier = carrier;
    Arena arena;
    expect_same_values(quantize(tensor, spec, {}, arena), "carrier");
  }
  const QuantSpec dense = with_clamp(quantiser(ElementFormat::E2M1, Granularity::block(1, 32), ScaleRule::Ceil6), 0.97,
                                     true, ResidualMode::Dense);
  Arena arena;
  expect_same_values(quantize(tensor, dense, {}, arena), "dense residual");
  expect_same_values(QTensor::view(tensor), "view");
}

TEST(CudaDequantize, DecodesEveryCodeUnderEveryScale) {
  NIBBLE_NEEDS_GPU();
  using enum ElementFormat;
  for (const ElementFormat element : {E2M1, Int4, E3M0, E4M3, E5M2}) {
    for (const ScaleFormat format : {ScaleFormat::F32, ScaleFormat::E8M0, ScaleFormat::UE4M3}) {
      // A row for each scale, in which every byte stands once.
      const std::int64_t rows = format == ScaleFormat::F32 ? 4 : format == ScaleFormat::E8M0 ? 255 : 127;
      QTensor q;
      q.element = element;
      q.rows = rows;
      q.cols = is_four_bit(element) ? 512 : 256;
      q.granularity = Granularity::per_row();
      q.scale_format = format;
      const OwnedTensor codes(DType::U8, {rows, 256});
      for (std::int64_t i = 0; i < rows * 256; ++i) {
        auto code = static_cast<std::uint8_t>(i % 256);
        const bool finite = element == E4M3 ? (code & 0x7F) != 0x7F : element != E5M2 || (code & 0x7F) < 0x7C;
        codes.view().data<std::uint8_t>()[i] = finite ? code : 0;  // the bits of a NaN are the machine's
      }
      const OwnedTensor scales(format == ScaleFormat::F32 ? DType::F32 : DType::U8, {rows, 1});
      for (std::int64_t r = 0; r < rows; ++r) {
        constexpr float kScales[] = {1.0f, 0x1.234566p-3f, 0x1p-140f, 0x1.fffffep120f};
        if (format == ScaleFormat::F32) {
          scales.view().data<float>()[r] = kScales[r];
        } else {
          scales.view().data<std::uint8_t>()[r] = static_cast<std::uint8_t>(r);
        }
      }
      q.codes = codes;
      q.scales = scales;
      q.tensor_scale = format == ScaleFormat::UE4M3 ? 0x1.6a09e6p-7f : 4.0f / 3.0f;
      expect_same_values(q, "every code");
    }
  }
}

TEST(CudaDequantize, RowsThatAreNotAlignedAndLargeOnesAreTheCpus) {
  NIBBLE_NEEDS_GPU();
  Arena arena;
  const OwnedTensor x = random_tensor(DType::BF16, {1024, 2048}, 5);
  expect_same_values(quantize(x, quantiser(ElementFormat::E2M1, Granularity::per_row(), ScaleRule::Absmax), {}, arena),
                     "large");
  // A view that begins amid a row of 16 bytes.
  const OwnedTensor y = random_tensor(DType::BF16, {9, 12}, 6);
  const OwnedTensor there = on_gpu(y);
  const QTensor view = QTensor::view(y.view().row_range(1, 9));
  const OwnedTensor want(DType::F32, {8, 12});
  const OwnedTensor got(DType::F32, {8, 12}, Device::Cuda);
  dequantize(view, want);
  dequantize(QTensor::view(there.view().row_range(1, 9)), got);
  expect_same_bits(want, got, "view of rows");
}

TEST(CudaDequantize, AnEmptyQTensorHasNoValues) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x(DType::F32, {0, 16}, Device::Cuda);
  const OwnedTensor out(DType::F32, {0, 16}, Device::Cuda);
  EXPECT_NO_THROW(dequantize(QTensor::view(x), out));
  const OwnedTensor other(DType::F32, {3, 16}, Device::Cuda);
  EXPECT_THROW(dequantize(QTensor::view(x), other), InternalError);
}

}  // namespace
}  // namespace nibble
