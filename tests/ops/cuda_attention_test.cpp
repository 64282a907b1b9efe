#include "nibble/ops/attention.h"
#include "nibble/ops/cuda/attention_cudnn.h"
#include "nibble/ops/cuda/attention_plain.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using testing_support::doubles;
using testing_support::expect_close;
using testing_support::expect_same_bits;
using testing_support::on_gpu;
using testing_support::random_tensor;

// What is under test: the op as it chooses, or the plain kernels, which BF16 reaches only where cuDNN is absent.
enum class Kernels { Chosen, Plain };

struct Path {
  DType dtype;
  Kernels kernels;
};

std::string path_name(const Path& path) {
  return std::string(dtype_name(path.dtype)) + (path.kernels == Kernels::Plain ? "Plain" : "");
}

std::string describe(const AttentionShape& s) {
  return fmt::format("batch {} seq {} heads {} kv_heads {} head_dim {}", s.batch, s.seq, s.heads, s.kv_heads,
                     s.head_dim);
}

// Largest error, as a share of the largest value. A BF16 result may lie on the other side of a rounding boundary, up to
// 2^-7 of it away; cuDNN also rounds probabilities and their gradients to BF16 for its tensor cores.
struct Tolerance {
  double out, lse, dqkv;
};
Tolerance tolerance(const Path& path) {
  if (path.dtype == DType::F32) return {5e-6, 2e-6, 1e-5};
  if (path.kernels == Kernels::Plain) return {0x1p-7, 2e-6, 0x1p-7};
  return {1.5e-2, 1e-4, 2e-2};
}

// A problem and the CPU's answers.
struct Problem {
  Problem(const AttentionShape& s, DType dtype, std::uint32_t seed, float amplitude = 1.0f)
      : shape(s),
        qkv(random_tensor(dtype, {s.batch * s.seq, (s.heads + 2 * s.kv_heads) * s.head_dim}, seed, amplitude)),
        dout(random_tensor(dtype, {s.batch * s.seq, s.heads * s.head_dim}, seed + 1)),
        out(dtype, dout.view().shape()),
        lse(DType::F32, {s.batch * s.heads, s.seq}),
        dqkv(dtype, qkv.view().shape()) {}
  void solve_on_cpu() {
    Arena arena;
    attention_forward(shape, qkv, out, lse, arena);
    attention_backward(shape, qkv, out, lse, dout, dqkv, arena);
  }

  AttentionShape shape;
  OwnedTensor qkv, dout, out, lse, dqkv;
};

// The same problem on the GPU. Its results start as other numbers, so that what is not overwritten shows.
struct GpuProblem {
  explicit GpuProblem(const Problem& p)
      : shape(p.shape),
        qkv(on_gpu(p.qkv)),
        dout(on_gpu(p.dout)),
        out(on_gpu(p.dout)),
        lse(on_gpu(random_tensor(DType::F32, {p.lse.view().dim(0), p.lse.view().dim(1)}, 99))),
        dqkv(on_gpu(p.qkv)) {}
  void forward(Kernels kernels) {
    if (kernels == Kernels::Plain) return cuda::plain_attention_forward(shape, qkv, out, lse);
    attention_forward(shape, qkv, out, lse, arena);
  }
  void backward(Kernels kernels) {
    if (kernels == Kernels::Plain) {
      return cuda::plain_attention_backward(shape, qkv, out, lse, dout, dqkv, arena);
    }
    attention_backward(shape, qkv, out, lse, dout, dqkv, arena);
  }

  AttentionShape shape;
  OwnedTensor qkv, dout, out, lse, dqkv;
  Arena arena{Device::Cuda};
};

const AttentionShape kShapes[] = {{2, 256, 4, 4, 64}, {2, 256, 4, 2, 128}, {3, 256, 4, 1, 32},  {2, 1, 3, 3, 64},
                                  {5, 17, 2, 2, 128}, {3, 17, 6, 2, 32},   {1, 1024, 2, 2, 64}, {1, 1024, 4, 2, 128},
                                  {1, 300, 2, 1, 72}, {2, 65, 10, 5, 64},  {1, 130, 2, 1, 256}};

class CudaAttention : public ::testing::TestWithParam<Path> {};

TEST_P(CudaAttention, ForwardAndBackwardAgreeWithTheCpu) {
  NIBBLE_NEEDS_GPU();
  const Tolerance bound = tolerance(GetParam());
  std::uint32_t seed = 1;
  for (const AttentionShape& s : kShapes) {
    SCOPED_TRACE(fmt::format("{} seed {}", describe(s), seed));
    Problem cpu(s, GetParam().dtype, seed);
    seed += 10;
    cpu.solve_on_cpu();
    GpuProblem gpu(cpu);
    gpu.forward(GetParam().kernels);
    gpu.backward(GetParam().kernels);
    expect_close(cpu.out, gpu.out, bound.out, "out");
    expect_close(cpu.lse, gpu.lse, bound.lse, "lse");
    expect_close(cpu.dqkv, gpu.dqkv, bound.dqkv, "dqkv");
  }
}

// A backward pass that read its log-sum-exp in another base or before scaling would agree with its own forward pass.
TEST_P(CudaAttention, BackwardTakesTheCpusOutputAndLogSumExp) {
  NIBBLE_NEEDS_GPU();
  Problem cpu({2, 200, 4, 2, 64}, GetParam().dtype, 300);
  cpu.solve_on_cpu();
  GpuProblem gpu(cpu);
  copy(cpu.out, gpu.out);
  copy(cpu.lse, gpu.lse);
  gpu.backward(GetParam().kernels);
  expect_close(cpu.dqkv, gpu.dqkv, tolerance(GetParam()).dqkv, "dqkv");
}

TEST_P(CudaAttention, TwoRunsGiveTheSameBits) {
  NIBBLE_NEEDS_GPU();
  for (const AttentionShape& s : {AttentionShape{8, 512, 10, 10, 64}, AttentionShape{2, 1024, 8, 2, 128}}) {
    SCOPED_TRACE(describe(s));
    const Problem problem(s, GetParam().dtype, 400);
    GpuProblem first(problem);
    first.forward(GetParam().kernels);
    first.backward(GetParam().kernels);
    for (int run = 0; run < 3; ++run) {
      GpuProblem again(problem);
      again.forward(GetParam().kernels);
      again.backward(GetParam().kernels);
      expect_same_bits(first.out, again.out, "out");
      expect_same_bits(first.lse, again.lse, "lse");
      expect_same_bits(first.dqkv, again.dqkv, "dqkv");
    }
  }
}

TEST_P(CudaAttention, LargeScoresGiveFiniteResults) {
  NIBBLE_NEEDS_GPU();
  Problem cpu({1, 100, 2, 1, 64}, GetParam().dtype, 500, 100.0f);
  cpu.solve_on_cpu();
  GpuProblem gpu(cpu);
  gpu.forward(GetParam().kernels);
  gpu.backward(GetParam().kernels);
  expect_close(cpu.out, gpu.out, 2e-2, "out");
  for (const double g : doubles(testing_support::on_cpu(gpu.dqkv))) ASSERT_TRUE(std::isfinite(g));
}

TEST_P(CudaAttention, NoTokensIsNoWork) {
  NIBBLE_NEEDS_GPU();
  if (GetParam().kernels == Kernels::Plain) GTEST_SKIP() << "the op answers before it chooses";
  GpuProblem gpu(Problem({0, 4, 2, 2, 8}, GetParam().dtype, 600));
  EXPECT_NO_THROW(gpu.forward(Kernels::Chosen));
  EXPECT_NO_THROW(gpu.backward(Kernels::Chosen));
}

INSTANTIATE_TEST_SUITE_P(Paths, CudaAttention,
                         ::testing::Values(Path{DType::F32, Kernels::Chosen}, Path{DType::BF16, Kernels::Chosen},
                                           Path{DType::BF16, Kernels::Plain}),
                         [](const auto& info) { return path_name(info.param); });

TEST(CudaAttentionChoice, CudnnTakesTheShapesOfModels) {
  NIBBLE_NEEDS_GPU();
  const std::string probe = cuda::attention_backend({2, 256, 4, 4, 64});
  if (!probe.starts_with("cuDNN")) GTEST_SKIP() << probe;
  for (const AttentionShape& s : {AttentionShape{8, 2048, 16, 16, 128}, AttentionShape{64, 512, 10, 10, 64},
                                  AttentionShape{2, 1024, 8, 2, 128}, AttentionShape{2, 200, 4, 1, 32}}) {
    EXPECT_EQ(cuda::attention_backend(s), probe) << describe(s);
  }
}

TEST(CudaAttentionChoice, OddHeadDimensionsRunOnOwnKernels) {
  NIBBLE_NEEDS_GPU();
  const AttentionShape s{2, 75, 4, 2, 20};
  EXPECT_TRUE(cuda::attention_backend(s).starts_with("own kernels"));
  for (const DType dtype : {DType::F32, DType::BF16}) {
    SCOPED_TRACE(dtype_name(dtype));
    Problem cpu(s, dtype, 700);
    cpu.solve_on_cpu();
    GpuProblem gpu(cpu);
    gpu.forward(Kernels::Chosen);
    gpu.backward(Kernels::Chosen);
    const Tolerance bound = tolerance({dtype, Kernels::Plain});
    expect_close(cpu.out, gpu.out, bound.out, "out");
    expect_close(cpu.dqkv, gpu.dqkv, bound.dqkv, "dqkv");
  }
}

// 1 GiB of scores a sequence: the deterministic backward takes one after the other.
TEST(CudaAttentionChoice, ABatchTakenInPartsAgreesWithThePlainKernels) {
  NIBBLE_NEEDS_GPU();
  GpuProblem gpu(Problem({2, 4096, 32, 1, 32}, DType::BF16, 800));
  gpu.forward(Kernels::Plain);
  gpu.backward(Kernels::Plain);
  const OwnedTensor expected = copy_to(gpu.dqkv, Device::Cuda);
  if (!cuda::cudnn_attention_backward(gpu.shape, gpu.qkv, gpu.out, gpu.lse, gpu.dout, gpu.dqkv, gpu.arena)) {
    GTEST_SKIP() << cuda::attention_backend(gpu.shape);
  }
  expect_close(expected, gpu.dqkv, 2e-2, "dqkv");
  EXPECT_LT(gpu.arena.peak_bytes(), std::size_t{3} << 29);
}

TEST(CudaAttentionErrors, WhatTheCpuRefusesIsRefused) {
  NIBBLE_NEEDS_GPU();
  GpuProblem heads(Problem({1, 4, 3, 3, 8}, DType::F32, 900));
  heads.shape.kv_heads = 2;
  EXPECT_THROW(heads.forward(Kernels::Chosen), InternalError);
  GpuProblem types(Problem({1, 4, 2, 2, 8}, DType::F32, 901));
  const OwnedTensor out(DType::BF16, {4, 16}, Device::Cuda);
  EXPECT_THROW(attention_forward(types.shape, types.qkv, out, types.lse, types.arena), InternalError);
}

}  // namespace
}  // namespace nibble
