#include "nibble/ops/head_norm.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kEps = 1e-6f;

struct Case {
  std::int64_t rows, heads, kv_heads, dim;
};
// Each number of elements that a lane may hold, odd heads, more heads than backward has warps, one head, no row.
constexpr Case kCases[] = {{3, 1, 1, 2},     {5, 3, 1, 33},  {17, 4, 2, 64}, {33, 16, 8, 128},
                           {700, 16, 8, 96}, {7, 2, 1, 256}, {0, 2, 1, 16}};

TEST(CudaHeadNorm, BothPassesAreTheCpusAndTheBackwardIsTheSameTwice) {
  NIBBLE_NEEDS_GPU();
  Arena cpu_scratch;
  Arena gpu_scratch(Device::Cuda);
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(
          fmt::format("{} rows, {}/{} heads of {}, {}", c.rows, c.heads, c.kv_heads, c.dim, dtype_name(dtype)));
      const std::int64_t turned = c.heads + c.kv_heads;
      const std::int64_t columns = (turned + c.kv_heads) * c.dim;
      const OwnedTensor qkv = random_tensor(dtype, {c.rows, columns}, 1, 2.0f);
      const OwnedTensor q = random_tensor(DType::F32, {c.dim}, 2), k = random_tensor(DType::F32, {c.dim}, 3);
      const OwnedTensor before(dtype, {c.rows, turned * c.dim}), rstd(DType::F32, {c.rows, turned});
      const OwnedTensor gpu_qkv = on_gpu(qkv), gpu_q = on_gpu(q), gpu_k = on_gpu(k);
      const OwnedTensor gpu_before = on_gpu(before), gpu_rstd = on_gpu(rstd);
      head_norm_forward(qkv, c.heads, c.kv_heads, {q, k}, kEps, before, rstd);
      head_norm_forward(gpu_qkv, c.heads, c.kv_heads, {gpu_q, gpu_k}, kEps, gpu_before, gpu_rstd);
      expect_close(qkv, gpu_qkv, op_tolerance(dtype), "qkv");
      expect_close(rstd, gpu_rstd, 1e-5, "rstd");
      expect_same_bits(before, gpu_before, "before");

      const OwnedTensor dqkv = random_tensor(dtype, {c.rows, columns}, 4);
      const OwnedTensor dq = random_tensor(DType::F32, {c.dim}, 5), dk = random_tensor(DType::F32, {c.dim}, 6);
      const OwnedTensor gpu_d[] = {on_gpu(dqkv), on_gpu(dqkv)};
      const OwnedTensor gpu_dq[] = {on_gpu(dq), on_gpu(dq)}, gpu_dk[] = {on_gpu(dk), on_gpu(dk)};
      for (int call = 0; call < 2; ++call) {
        head_norm_backward(gpu_d[call], c.heads, c.kv_heads, {gpu_q, gpu_k}, on_gpu(before), on_gpu(rstd),
                           {gpu_dq[call], gpu_dk[call]}, gpu_scratch);
      }
      head_norm_backward(dqkv, c.heads, c.kv_heads, {q, k}, before, rstd, {dq, dk}, cpu_scratch);
      expect_close(dqkv, gpu_d[0], op_tolerance(dtype), "dqkv");
      expect_close(dq, gpu_dq[0], 1e-5, "query gain");
      expect_close(dk, gpu_dk[0], 1e-5, "key gain");
      expect_same_bits(gpu_d[0], gpu_d[1], "dqkv");
      expect_same_bits(gpu_dq[0], gpu_dq[1], "query gain");
      expect_same_bits(gpu_dk[0], gpu_dk[1], "key gain");
    }
  }
}

}  // namespace
}  // namespace nibble
