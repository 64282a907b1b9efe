#include <limits>

#include "nibble/ops/reduce.h"
#include "nibble/ops/swiglu.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

struct Shape {
  std::int64_t rows, f;
};

constexpr Shape kShapes[] = {{1, 1}, {3, 5}, {7, 12}, {5, 8}, {1, 5632}, {64, 1376}, {1000, 88}, {33, 1001}, {0, 64}};

TEST(CudaSwiglu, ForwardIsTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const Shape s : kShapes) {
    for (const DType in : kFloatTypes) {
      for (const DType out : kFloatTypes) {
        SCOPED_TRACE(fmt::format("[{}, {}] {} to {}", s.rows, s.f, dtype_name(in), dtype_name(out)));
        const OwnedTensor gate_up = random_tensor(in, {s.rows, 2 * s.f}, 1, 3.0f);
        const OwnedTensor y(out, {s.rows, s.f});
        swiglu_forward(gate_up, y);
        const OwnedTensor gpu_y = zeros_on_gpu(out, {s.rows, s.f});
        swiglu_forward(on_gpu(gate_up), gpu_y);
        expect_close(y, gpu_y, op_tolerance(out), "y");
        fill_zero(gpu_y);
        swiglu_forward(Misaligned(gate_up), gpu_y);
        expect_close(y, gpu_y, op_tolerance(out), "y from a misaligned matrix");
      }
    }
  }
}

TEST(CudaSwiglu, BackwardIsTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const Shape s : kShapes) {
    for (const DType grad : kFloatTypes) {
      for (const DType in : kFloatTypes) {
        for (const DType out : kFloatTypes) {
          SCOPED_TRACE(
              fmt::format("[{}, {}] dy {} x {} dx {}", s.rows, s.f, dtype_name(grad), dtype_name(in), dtype_name(out)));
          const OwnedTensor gate_up = random_tensor(in, {s.rows, 2 * s.f}, 1, 3.0f);
          const OwnedTensor dy = random_tensor(grad, {s.rows, s.f}, 2);
          const OwnedTensor dx(out, {s.rows, 2 * s.f});
          swiglu_backward(dy, gate_up, dx);
          const OwnedTensor gpu_dx = zeros_on_gpu(out, {s.rows, 2 * s.f});
          swiglu_backward(on_gpu(dy), on_gpu(gate_up), gpu_dx);
          expect_close(dx, gpu_dx, op_tolerance(out), "d_gate_up");
        }
      }
    }
  }
}

TEST(CudaSwiglu, BackwardInPlaceGivesTheSameBits) {
  NIBBLE_NEEDS_GPU();
  for (const Shape s : kShapes) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(fmt::format("[{}, {}] {}", s.rows, s.f, dtype_name(dtype)));
      const OwnedTensor dy = on_gpu(random_tensor(DType::BF16, {s.rows, s.f}, 2));
      const OwnedTensor x = on_gpu(random_tensor(dtype, {s.rows, 2 * s.f}, 1, 3.0f));
      const OwnedTensor apart = zeros_on_gpu(dtype, {s.rows, 2 * s.f});
      swiglu_backward(dy, x, apart);
      swiglu_backward(dy, x, x);
      expect_same_bits(apart, x, "d_gate_up");
    }
  }
}

TEST(CudaSwiglu, FarTailsAreZeroOrLinearAndNanStays) {
  NIBBLE_NEEDS_GPU();
  const float nan = std::nanf("");
  float values[] = {-1e30f, -200.0f, -88.0f, 0.0f, 88.0f, 200.0f, 1e30f, nan,  // gate
                    1.0f,   1.0f,    1.0f,   1.0f, 1.0f,  1.0f,   1.0f,  1.0f};
  const OwnedTensor y = zeros_on_gpu(DType::F32, {1, 8});
  swiglu_forward(on_gpu(Tensor::of(values, {1, 16})), y);
  const std::vector<double> out = doubles(on_cpu(y));
  EXPECT_EQ(out[0], 0.0);
  EXPECT_EQ(out[1], 0.0);
  EXPECT_LE(std::abs(out[2]), 1e-30);
  EXPECT_EQ(out[3], 0.0);
  EXPECT_EQ(out[4], 88.0);
  EXPECT_EQ(out[5], 200.0);
  EXPECT_EQ(out[6], 1e30f);
  EXPECT_TRUE(std::isnan(out[7]));
}

/// One tile and several, edges within tiles, a whole width of the 1.3B model; apart and in place, values among which
/// some are not finite.
TEST(CudaSwiglu, BackwardRaisesTheMagnitudesOfWhatItWrites) {
  NIBBLE_NEEDS_GPU();
  for (const Shape s : {Shape{16, 8}, Shape{16, 264}, Shape{112, 256}, Shape{144, 1376}, Shape{272, 5632}}) {
    for (const bool folds : {false, true}) {
      for (const bool finite : {true, false}) {
        for (const DType dtype : kFloatTypes) {
          SCOPED_TRACE(fmt::format("[{}, {}] {}{}{}", s.rows, s.f, dtype_name(dtype), folds ? ", folds" : "",
                                   finite ? "" : ", not finite"));
          const OwnedTensor here = random_tensor(DType::F32, {s.rows, s.f}, 2);
          float* d = here.view().data<float>();
          if (!finite) d[s.f + 3] = std::numeric_limits<float>::infinity();
          if (!finite) d[5 * s.f + 7] = std::nanf("");
          const OwnedTensor dy = zeros_on_gpu(dtype, {s.rows, s.f});
          convert(on_gpu(here), dy);
          const OwnedTensor x = on_gpu(random_tensor(dtype, {s.rows, 2 * s.f}, 1, 3.0f));
          const OwnedTensor want = zeros_on_gpu(dtype, {s.rows, 2 * s.f});
          const OwnedTensor got = zeros_on_gpu(dtype, {s.rows, 2 * s.f});
          swiglu_backward(dy, x, want);
          const Magnitudes apart(s.rows, 2 * s.f, folds, 9);
          swiglu_backward(dy, x, got, apart.of);
          expect_same_bits(want, got, "d_gate_up");
          expect_magnitudes_of(want, apart.of);
          const Magnitudes in_place(s.rows, 2 * s.f, folds, 9);
          swiglu_backward(dy, x, x, in_place.of);
          expect_same_bits(want, x, "d_gate_up in place");
          expect_magnitudes_of(want, in_place.of);
          if (HasFailure()) return;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble
