#include "nibble/ops/rope.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

struct Case {
  std::int64_t batch, seq, heads, kv_heads, head_dim;
};

// Whole packs and odd halves, more positions than one, fewer key/value heads than query heads, one row, no row.
constexpr Case kCases[] = {{2, 33, 4, 2, 64}, {1, 128, 16, 16, 128}, {3, 5, 3, 1, 6}, {1, 7, 2, 2, 12},
                           {1, 1, 1, 1, 2},   {4, 64, 8, 2, 48},     {0, 8, 2, 1, 16}};

void expect_rotation(const Case& c, DType dtype, bool misaligned) {
  SCOPED_TRACE(fmt::format("batch {} seq {} heads {}/{} of {}, {}{}", c.batch, c.seq, c.heads, c.kv_heads, c.head_dim,
                           dtype_name(dtype), misaligned ? ", misaligned" : ""));
  const OwnedTensor cos(DType::F32, {c.seq, c.head_dim / 2});
  const OwnedTensor sin(DType::F32, {c.seq, c.head_dim / 2});
  rope_tables(1e4f, {}, cos, sin);
  const OwnedTensor gpu_cos = on_gpu(cos);
  const OwnedTensor gpu_sin = on_gpu(sin);
  const OwnedTensor x = random_tensor(dtype, {c.batch * c.seq, (c.heads + 2 * c.kv_heads) * c.head_dim}, 1);
  for (const bool forward : {true, false}) {
    const auto rotate = [&](const Tensor& t, const Tensor& of_cos, const Tensor& of_sin) {
      forward ? rope_forward(t, c.heads, c.kv_heads, of_cos, of_sin)
              : rope_backward(t, c.heads, c.kv_heads, of_cos, of_sin);
    };
    const OwnedTensor aligned_x = on_gpu(x);
    const Misaligned misaligned_x(x);
    const Tensor& gpu_x = misaligned ? static_cast<const Tensor&>(misaligned_x) : aligned_x.view();
    const OwnedTensor turned = on_cpu(x);
    rotate(turned, cos, sin);
    rotate(gpu_x, gpu_cos, gpu_sin);
    expect_same_bits(turned, gpu_x, forward ? "forward" : "backward");
  }
}

TEST(CudaRope, RotationHasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) {
      expect_rotation(c, dtype, false);
      expect_rotation(c, dtype, true);
    }
  }
}

TEST(CudaRope, TablesHaveTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor cos(DType::F32, {130, 24});
  const OwnedTensor sin(DType::F32, {130, 24});
  rope_tables(5e5f, {}, cos, sin);
  const OwnedTensor gpu_cos = zeros_on_gpu(DType::F32, {130, 24});
  const OwnedTensor gpu_sin = zeros_on_gpu(DType::F32, {130, 24});
  rope_tables(5e5f, {}, gpu_cos, gpu_sin);
  expect_same_bits(cos, gpu_cos, "cos");
  expect_same_bits(sin, gpu_sin, "sin");
}

/// Strips that end within a row and a head, more rows than a strip, halves that are no whole packs, F32.
TEST(CudaRope, BackwardRaisesTheMagnitudesOfAllHeads) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : {Case{2, 8, 2, 1, 16}, Case{2, 40, 4, 2, 64}, Case{1, 144, 16, 16, 128}, Case{4, 8, 2, 2, 24}}) {
    for (const DType dtype : kFloatTypes) {
      for (const bool folds : {false, true}) {
        SCOPED_TRACE(fmt::format("batch {} seq {} heads {}/{} of {}, {}{}", c.batch, c.seq, c.heads, c.kv_heads,
                                 c.head_dim, dtype_name(dtype), folds ? ", folds" : ""));
        const std::int64_t rows = c.batch * c.seq;
        const std::int64_t cols = (c.heads + 2 * c.kv_heads) * c.head_dim;
        const OwnedTensor cos = zeros_on_gpu(DType::F32, {c.seq, c.head_dim / 2});
        const OwnedTensor sin = zeros_on_gpu(DType::F32, {c.seq, c.head_dim / 2});
        rope_tables(1e4f, {}, cos, sin);
        const OwnedTensor x = random_tensor(dtype, {rows, cols}, 1);
        const OwnedTensor want = on_gpu(x);
        const OwnedTensor got = on_gpu(x);
        const Magnitudes magnitudes(rows, cols, folds, 5);
        rope_backward(want, c.heads, c.kv_heads, cos, sin);
        rope_backward(got, c.heads, c.kv_heads, cos, sin, magnitudes.of);
        expect_same_bits(want, got, "dqkv");
        expect_magnitudes_of(want, magnitudes.of);
        if (HasFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace nibble
