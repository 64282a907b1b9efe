// Tests that hold the GPU's results against the CPU's; without a GPU they are skipped.
#pragma once

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/device.h"
#include "tests/tensor_testing.h"

/// First statement of a test that needs a GPU.
#define NIBBLE_NEEDS_GPU() \
  if (nibble::cuda_devices() == 0) GTEST_SKIP() << "no GPU here"

namespace nibble::testing_support {

inline OwnedTensor on_gpu(const Tensor& x) { return copy_to(x, Device::Cuda); }
inline OwnedTensor on_cpu(const Tensor& x) { return copy_to(x, Device::Cpu); }

/// Both tensors, wherever they are, hold the same bits.
inline void expect_same_bits(const Tensor& expected, const Tensor& got, const char* what) {
  ASSERT_EQ(expected.dtype(), got.dtype()) << what;
  ASSERT_EQ(expected.numel(), got.numel()) << what;
  const OwnedTensor a = on_cpu(expected);
  const OwnedTensor b = on_cpu(got);
  const auto* p = static_cast<const unsigned char*>(a.view().raw());
  const auto* q = static_cast<const unsigned char*>(b.view().raw());
  std::int64_t different = 0;
  std::int64_t first = -1;
  for (std::size_t i = 0; i < a.view().bytes(); ++i) {
    if (p[i] == q[i]) continue;
    if (first < 0) first = static_cast<std::int64_t>(i);
    ++different;
  }
  EXPECT_EQ(different, 0) << what << ": " << different << " of " << a.view().bytes() << " bytes differ, first at byte "
                          << first;
}

/// max |got - expected| <= tolerance * max |expected|.
inline void expect_close(const Tensor& expected, const Tensor& got, double tolerance, const char* what) {
  const OwnedTensor a = on_cpu(expected);
  const OwnedTensor b = on_cpu(got);
  const std::vector<double> x = doubles(a);
  const std::vector<double> y = doubles(b);
  ASSERT_EQ(x.size(), y.size()) << what;
  double largest = 0;
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_FALSE(std::isnan(y[i])) << what << " at " << i;
    largest = std::max(largest, std::abs(x[i]));
    worst = std::max(worst, std::abs(x[i] - y[i]));
  }
  EXPECT_LE(worst, tolerance * largest) << what;
}

}  // namespace nibble::testing_support
