#include <limits>

#include "nibble/optim/adamw.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kInf = std::numeric_limits<float>::infinity();

AdamWStep step_number(std::int64_t t) {
  AdamWStep step;
  step.lr = 1e-3f;
  step.t = t;
  step.grad_scale = 0.7f;
  return step;
}

TEST(CudaAdamW, GivesTheCpusBitsStepAfterStep) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : {1, 3, 5, 1024, 3000003}) {
    const OwnedTensor p = random_tensor(DType::F32, {n}, 1, 0.02f);
    const OwnedTensor m(DType::F32, {n});
    const OwnedTensor v(DType::F32, {n});
    const OwnedTensor p_gpu = on_gpu(p);
    const OwnedTensor m_gpu = on_gpu(m);
    const OwnedTensor v_gpu = on_gpu(v);
    for (std::int64_t t = 1; t <= 3; ++t) {
      const OwnedTensor g = random_tensor(DType::F32, {n}, static_cast<std::uint32_t>(10 + t), 1e-3f);
      if (n > 2) g.view().data<float>()[1] = 0.0f;
      if (n > 2) g.view().data<float>()[2] = 1e-30f;  // its square is below the least number
      adamw_step(p, g, m, v, step_number(t));
      adamw_step(p_gpu, on_gpu(g), m_gpu, v_gpu, step_number(t));
      expect_same_bits(p, p_gpu, "param");
      expect_same_bits(m, m_gpu, "m");
      expect_same_bits(v, v_gpu, "v");
    }
  }
}

TEST(CudaAdamW, TakesTensorsThatAreNotAlignedAndNone) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor all = random_tensor(DType::F32, {8, 3}, 1);
  const OwnedTensor g = random_tensor(DType::F32, {7, 3}, 2);
  const OwnedTensor m(DType::F32, {7, 3});
  const OwnedTensor v(DType::F32, {7, 3});
  const OwnedTensor all_gpu = on_gpu(all);
  const OwnedTensor g_gpu = on_gpu(g);
  const OwnedTensor m_gpu = on_gpu(m);
  const OwnedTensor v_gpu = on_gpu(v);
  adamw_step(all.view().row_range(1, 8), g, m, v, step_number(1));
  adamw_step(all_gpu.view().row_range(1, 8), g_gpu, m_gpu, v_gpu, step_number(1));
  expect_same_bits(all, all_gpu, "param");
  const OwnedTensor none(DType::F32, {0}, Device::Cuda);
  EXPECT_NO_THROW(adamw_step(none, none, none, none, step_number(1)));
}

struct OwnedScaled {
  OwnedScaled(DType dtype, std::int64_t n, Device device = Device::Cpu)
      : data(dtype, {n}, device), scale_inv(DType::F32, {1}, device) {}
  operator ScaledTensor() const { return {data, scale_inv}; }
  OwnedTensor data, scale_inv;
};

void expect_same(const OwnedScaled& want, const OwnedScaled& got, const char* what) {
  expect_same_bits(want.data, got.data, what);
  expect_same_bits(want.scale_inv, got.scale_inv, what);
}

void expect_same_store(const Tensor& x, const OwnedScaled& cpu, const OwnedScaled& gpu) {
  const OwnedTensor x_gpu = on_gpu(x);
  scaled_store(x, cpu);
  scaled_store(x_gpu, gpu);
  expect_same(cpu, gpu, "scaled_store");
  const OwnedTensor want(DType::F32, {x.numel()});
  const OwnedTensor got(DType::F32, {x.numel()}, Device::Cuda);
  scaled_load(cpu, want);
  scaled_load(gpu, got);
  expect_same_bits(want, got, "scaled_load");
}

TEST(CudaScaledTensor, StoresAndLoadsAsTheCpuDoes) {
  NIBBLE_NEEDS_GPU();
  for (const DType dtype : {DType::U8, DType::F16}) {
    for (const std::int64_t n : {1, 7, 1000, 100003}) {
      const OwnedScaled cpu(dtype, n);
      const OwnedScaled gpu(dtype, n, Device::Cuda);
      const OwnedTensor zeros(DType::F32, {n});
      expect_same_store(zeros, cpu, gpu);  // no previous scale
      for (const float amplitude : {1e-40f, 1e-20f, 1e-3f, 448.0f, 65504.0f, 1e30f}) {
        expect_same_store(random_tensor(DType::F32, {n}, 5, amplitude), cpu, gpu);
      }
      expect_same_store(zeros, cpu, gpu);
      const OwnedTensor infinite = random_tensor(DType::F32, {n}, 6);
      infinite.view().data<float>()[n / 2] = -kInf;
      expect_same_store(infinite, cpu, gpu);  // keeps the previous scale, and saturates
    }
    for (const float top : {448.0f, 447.99997f, 448.00003f, 224.0f, 65504.0f, 65504.004f, 1.0f, 3e38f}) {
      const OwnedScaled cpu(dtype, 3);
      const OwnedScaled gpu(dtype, 3, Device::Cuda);
      const OwnedTensor x(DType::F32, {3});
      x.view().data<float>()[0] = -top;
      x.view().data<float>()[1] = top / 3;
      expect_same_store(x, cpu, gpu);
    }
  }
}

TEST(CudaScaledTensor, LoadsEveryCode) {
  NIBBLE_NEEDS_GPU();
  const OwnedScaled halves(DType::F16, 1 << 16);
  const OwnedScaled bytes(DType::U8, 1 << 8);
  for (int i = 0; i < 1 << 16; ++i) {
    const bool nan = (i & 0x7FFF) > 0x7C00;
    halves.data.view().data<std::uint16_t>()[i] = static_cast<std::uint16_t>(nan ? 0 : i);
  }
  for (int i = 0; i < 1 << 8; ++i) {
    bytes.data.view().data<std::uint8_t>()[i] = static_cast<std::uint8_t>((i & 0x7F) == 0x7F ? 0 : i);
  }
  for (const OwnedScaled* from : {&halves, &bytes}) {
    from->scale_inv.view().data<float>()[0] = 0x1p-20f;
    const std::int64_t n = from->data.view().numel();
    OwnedScaled there(from->data.view().dtype(), n, Device::Cuda);
    copy(from->data, there.data);
    copy(from->scale_inv, there.scale_inv);
    const OwnedTensor want(DType::F32, {n});
    const OwnedTensor got(DType::F32, {n}, Device::Cuda);
    scaled_load(*from, want);
    scaled_load(there, got);
    expect_same_bits(want, got, "every code");
  }
}

TEST(CudaAdamWFp8, GivesTheCpusBitsStepAfterStep) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : {1, 6, 4096, 1000003}) {
    SCOPED_TRACE(n);
    Arena scratch;
    Arena scratch_gpu(Device::Cuda);
    const OwnedTensor p = random_tensor(DType::F32, {n}, 1, 0.02f);
    const OwnedTensor p_gpu = on_gpu(p);
    const OwnedScaled master(DType::F16, n), m(DType::U8, n), v(DType::F16, n);
    const OwnedScaled master_gpu(DType::F16, n, Device::Cuda), m_gpu(DType::U8, n, Device::Cuda),
        v_gpu(DType::F16, n, Device::Cuda);
    scaled_store(p, master);
    scaled_store(p_gpu, master_gpu);
    for (const OwnedScaled* fresh : {&m, &v}) fresh->scale_inv.view().data<float>()[0] = 1.0f;
    copy(m.scale_inv, m_gpu.scale_inv);
    copy(v.scale_inv, v_gpu.scale_inv);
    for (std::int64_t t = 1; t <= 5; ++t) {
      const OwnedTensor g = random_tensor(DType::F32, {n}, static_cast<std::uint32_t>(20 + t), t == 3 ? 30.0f : 1e-3f);
      if (t == 4) fill_zero(g);
      adamw_fp8_step(p, g, master, m, v, step_number(t), scratch);
      adamw_fp8_step(p_gpu, on_gpu(g), master_gpu, m_gpu, v_gpu, step_number(t), scratch_gpu);
      SCOPED_TRACE(t);
      expect_same_bits(p, p_gpu, "param");
      expect_same(master, master_gpu, "master");
      expect_same(m, m_gpu, "m");
      expect_same(v, v_gpu, "v");
    }
  }
}

}  // namespace
}  // namespace nibble
