#include "nibble/ops/rmsnorm.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kEps = 1e-5f;

struct Shape {
  std::int64_t rows, d;
};

// One shape for each number of warps that a row may take, at its widest and just beyond; odd and very wide rows, which
// take the other kernels; more rows than backward has blocks; one row, one column.
constexpr Shape kShapes[] = {{1, 1},     {3, 7},    {5, 8},       {33, 512},    {17, 520},  {9, 1024},  {5, 1032},
                             {64, 2048}, {7, 4096}, {4, 5120},    {3, 8192},    {2, 8200},  {3, 10001}, {4500, 64},
                             {70, 768},  {1, 2048}, {1200, 1536}, {2000, 1000}, {300, 4000}};

struct Inputs {
  Inputs(Shape s, DType grad, DType value)
      : x(random_tensor(value, {s.rows, s.d}, 1, 2.0f)),
        gain(random_tensor(DType::F32, {s.d}, 2)),
        dy(random_tensor(grad, {s.rows, s.d}, 3)),
        dx(random_tensor(DType::F32, {s.rows, s.d}, 4)),
        dgain(random_tensor(DType::F32, {s.d}, 5)),
        rstd(DType::F32, {s.rows}) {}
  OwnedTensor x, gain, dy, dx, dgain, rstd;
};

void expect_forward(const Tensor& x, const Tensor& gain, const Tensor& gpu_x, const Tensor& gpu_gain, DType out) {
  const std::int64_t rows = x.rows();
  const OwnedTensor y(out, {rows, x.cols()});
  const OwnedTensor rstd(DType::F32, {rows});
  rmsnorm_forward(x, gain, kEps, y, rstd);
  const OwnedTensor gpu_y = zeros_on_gpu(out, {rows, x.cols()});
  const OwnedTensor gpu_rstd = zeros_on_gpu(DType::F32, {rows});
  rmsnorm_forward(gpu_x, gpu_gain, kEps, gpu_y, gpu_rstd);
  expect_close(y, gpu_y, op_tolerance(out), "y");
  expect_close(rstd, gpu_rstd, 1e-5, "rstd");
}

TEST(CudaRmsnorm, ForwardIsTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const Shape s : kShapes) {
    for (const DType in : kFloatTypes) {
      for (const DType out : kFloatTypes) {
        SCOPED_TRACE(fmt::format("[{}, {}] {} to {}", s.rows, s.d, dtype_name(in), dtype_name(out)));
        const Inputs inputs(s, in, in);
        expect_forward(inputs.x, inputs.gain, on_gpu(inputs.x), on_gpu(inputs.gain), out);
      }
    }
  }
}

TEST(CudaRmsnorm, ForwardOfRowsThatNoWideAccessReaches) {
  NIBBLE_NEEDS_GPU();
  for (const DType in : kFloatTypes) {
    const Inputs inputs({6, 512}, in, in);
    expect_forward(inputs.x, inputs.gain, Misaligned(inputs.x), on_gpu(inputs.gain), DType::BF16);
    expect_forward(inputs.x, inputs.gain, on_gpu(inputs.x), Misaligned(inputs.gain), DType::F32);
  }
}

TEST(CudaRmsnorm, BackwardIsTheCpus) {
  NIBBLE_NEEDS_GPU();
  Arena cpu_scratch;
  Arena gpu_scratch(Device::Cuda);
  for (const Shape s : kShapes) {
    for (const DType grad : kFloatTypes) {
      for (const DType value : kFloatTypes) {
        SCOPED_TRACE(fmt::format("[{}, {}] dy {} x {}", s.rows, s.d, dtype_name(grad), dtype_name(value)));
        const Inputs in(s, grad, value);
        const OwnedTensor y(value, {s.rows, s.d});
        rmsnorm_forward(in.x, in.gain, kEps, y, in.rstd);
        const OwnedTensor dx = on_gpu(in.dx);
        const OwnedTensor dgain = on_gpu(in.dgain);
        rmsnorm_backward(on_gpu(in.dy), on_gpu(in.x), on_gpu(in.gain), on_gpu(in.rstd), dx, dgain, gpu_scratch);
        rmsnorm_backward(in.dy, in.x, in.gain, in.rstd, in.dx, in.dgain, cpu_scratch);
        expect_close(in.dx, dx, 1e-5, "dx");
        expect_close(in.dgain, dgain, 1e-5, "dgain");
      }
    }
  }
}

TEST(CudaRmsnorm, BackwardGivesTheSameBitsTwice) {
  NIBBLE_NEEDS_GPU();
  Arena scratch(Device::Cuda);
  for (const Shape s : {Shape{5000, 512}, Shape{1200, 2048}, Shape{700, 999}}) {
    SCOPED_TRACE(fmt::format("[{}, {}]", s.rows, s.d));
    const Inputs in(s, DType::BF16, DType::F32);
    const OwnedTensor y(DType::BF16, {s.rows, s.d});
    rmsnorm_forward(in.x, in.gain, kEps, y, in.rstd);
    const OwnedTensor dx[] = {on_gpu(in.dx), on_gpu(in.dx)};
    const OwnedTensor dgain[] = {on_gpu(in.dgain), on_gpu(in.dgain)};
    for (int call = 0; call < 2; ++call) {
      rmsnorm_backward(on_gpu(in.dy), on_gpu(in.x), on_gpu(in.gain), on_gpu(in.rstd), dx[call], dgain[call], scratch);
    }
    expect_same_bits(dx[0], dx[1], "dx");
    expect_same_bits(dgain[0], dgain[1], "dgain");
  }
}

TEST(CudaRmsnorm, NoRowsLeaveTheGradientAsItIs) {
  NIBBLE_NEEDS_GPU();
  Arena scratch(Device::Cuda);
  const Inputs in({0, 64}, DType::BF16, DType::F32);
  const OwnedTensor dgain = on_gpu(in.dgain);
  rmsnorm_forward(on_gpu(in.x), on_gpu(in.gain), kEps, on_gpu(in.dy), on_gpu(in.rstd));
  rmsnorm_backward(on_gpu(in.dy), on_gpu(in.x), on_gpu(in.gain), on_gpu(in.rstd), on_gpu(in.dx), dgain, scratch);
  expect_same_bits(in.dgain, dgain, "dgain");
}

/// In one row a block, four rows a block, and rows too wide for registers; fewer rows than blocks and more.
TEST(CudaRmsnorm, BackwardRaisesTheMagnitudesOfWhatItWrites) {
  NIBBLE_NEEDS_GPU();
  Arena scratch(Device::Cuda);
  for (const Shape s : {Shape{16, 64}, Shape{48, 512}, Shape{5008, 64}, Shape{32, 528}, Shape{1200, 2048},
                        Shape{16, 8192}, Shape{16, 8208}}) {
    for (const DType value : kFloatTypes) {
      for (const bool folds : {false, true}) {
        for (const bool finite : {true, false}) {
          SCOPED_TRACE(fmt::format("[{}, {}] x {}{}{}", s.rows, s.d, dtype_name(value), folds ? ", folds" : "",
                                   finite ? "" : ", not finite"));
          const Inputs in(s, DType::BF16, value);
          const OwnedTensor y(DType::BF16, {s.rows, s.d});
          rmsnorm_forward(in.x, in.gain, kEps, y, in.rstd);
          if (!finite) in.dx.view().data<float>()[3 * s.d + 5] = -INFINITY;
          if (!finite) in.dx.view().data<float>()[7 * s.d + 1] = std::nanf("");
          const OwnedTensor dx[] = {on_gpu(in.dx), on_gpu(in.dx)};
          const OwnedTensor dgain[] = {on_gpu(in.dgain), on_gpu(in.dgain)};
          const Magnitudes magnitudes(s.rows, s.d, folds, 6);
          const auto backward = [&](int call, const PairMagnitudes& raise) {
            rmsnorm_backward(on_gpu(in.dy), on_gpu(in.x), on_gpu(in.gain), on_gpu(in.rstd), dx[call], dgain[call],
                             scratch, raise);
          };
          backward(0, {});
          backward(1, magnitudes.of);
          expect_same_bits(dx[0], dx[1], "dx");
          expect_same_bits(dgain[0], dgain[1], "dgain");
          expect_magnitudes_of(dx[0], magnitudes.of);
          if (HasFailure()) return;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble
