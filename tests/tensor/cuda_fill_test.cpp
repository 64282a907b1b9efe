#include <limits>

#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::int64_t kSizes[] = {0, 1, 3, 4, 1023, 4096, 100'003};

// Every upper half of a float, with lower halves that round down, tie and round up, and the signalling and quiet NaN.
OwnedTensor all_bf16_neighbours() {
  constexpr std::uint32_t kLower[] = {0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
  OwnedTensor x(DType::F32, {65536, 6});
  float* p = x.view().data<float>();
  for (std::uint32_t upper = 0; upper < 65536; ++upper) {
    for (const std::uint32_t lower : kLower) *p++ = bits_float(upper << 16 | lower);
  }
  return x;
}

TEST(CudaFill, ConversionToBf16HasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = all_bf16_neighbours();
  const OwnedTensor y(DType::BF16, {65536, 6});
  convert(x, y);
  const OwnedTensor gpu_y(DType::BF16, {65536, 6}, Device::Cuda);
  convert(on_gpu(x), gpu_y);
  expect_same_bits(y, gpu_y, "BF16");
}

TEST(CudaFill, ConversionToF32HasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  OwnedTensor x(DType::BF16, {65536});
  for (std::int64_t i = 0; i < 65536; ++i) x.view().data<bf16>()[i] = {static_cast<std::uint16_t>(i)};
  const OwnedTensor y(DType::F32, {65536});
  convert(x, y);
  const OwnedTensor gpu_y(DType::F32, {65536}, Device::Cuda);
  convert(on_gpu(x), gpu_y);
  expect_same_bits(y, gpu_y, "F32");
}

TEST(CudaFill, AnySizeIsConvertedCopiedAndCleared) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : kSizes) {
    for (const DType from : {DType::F32, DType::BF16}) {
      for (const DType to : {DType::F32, DType::BF16}) {
        SCOPED_TRACE(fmt::format("{} {} to {}", n, dtype_name(from), dtype_name(to)));
        const OwnedTensor x = random_tensor(from, {n}, 1);
        const OwnedTensor y(to, {n});
        convert(x, y);
        const OwnedTensor gpu_y(to, {n}, Device::Cuda);
        convert(on_gpu(x), gpu_y);
        expect_same_bits(y, gpu_y, "converted");
        fill_zero(gpu_y);
        expect_same_bits(OwnedTensor(to, {n}), gpu_y, "cleared");
      }
    }
  }
}

TEST(CudaFill, RowsThatBeginAnywhere) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor x = random_tensor(DType::F32, {7, 33}, 1);
  const OwnedTensor gpu_x = on_gpu(x);
  const OwnedTensor y(DType::BF16, {7, 33});
  const OwnedTensor gpu_y(DType::BF16, {7, 33}, Device::Cuda);
  convert(x.view().row_range(3, 6), y.view().row_range(1, 4));
  convert(gpu_x.view().row_range(3, 6), gpu_y.view().row_range(1, 4));
  expect_same_bits(y, gpu_y, "converted rows");
  const OwnedTensor gpu_z = on_gpu(x);
  fill_zero(x.view().row_range(2, 3));
  fill_zero(gpu_z.view().row_range(2, 3));
  expect_same_bits(x, gpu_z, "cleared row");
}

}  // namespace
}  // namespace nibble
