#include "nibble/ops/self_test.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>

#include "nibble/numerics/philox.h"
#include "nibble/ops/attention.h"
#include "nibble/ops/device_operand.h"
#include "nibble/ops/gemm.h"
#include "nibble/quant/quantize.h"

namespace nibble {
namespace {

/// Numbers whose magnitudes spread over many binades, with zeros among them.
OwnedTensor random_matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  const RandomStream random{seed, 0, 0};
  OwnedTensor x(DType::F32, {rows, cols});
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const std::uint32_t word = random.word(static_cast<std::uint64_t>(i));
    const float size = (word & 0xF0u) == 0 ? 0.0f : exp2_int(-static_cast<int>(word & 15u) / 2);
    x.view().data<float>()[i] = (2.0f * uniform24(word) - 1.0f) * size;
  }
  if (dtype == DType::F32) return x;
  OwnedTensor narrow(dtype, {rows, cols});
  convert(x, narrow);
  return narrow;
}

std::vector<float> floats(const Tensor& x) {
  OwnedTensor wide(DType::F32, {x.numel()});
  const OwnedTensor here = copy_to(x, Device::Cpu);
  convert(here, wide);
  return {wide.view().data<float>(), wide.view().data<float>() + x.numel()};
}

/// Why the GPU's bits are not the CPU's; empty if they are.
std::string compare_bits(const Tensor& expected, const Tensor& got, const char* what) {
  if (expected.defined() != got.defined()) return fmt::format("one device has {} and the other has none", what);
  if (!expected.defined()) return {};
  const OwnedTensor here = copy_to(got, Device::Cpu);
  const auto* p = static_cast<const unsigned char*>(expected.raw());
  const auto* q = static_cast<const unsigned char*>(here.view().raw());
  for (std::size_t i = 0; i < expected.bytes(); ++i) {
    if (p[i] != q[i]) return fmt::format("byte {} of the {} is {:#x}, on the CPU {:#x}", i, what, q[i], p[i]);
  }
  return {};
}

/// |got - expected| <= allowed(i), or a sentence.
std::string compare_numbers(const Tensor& expected, const Tensor& got,
                            const std::function<double(std::size_t)>& allowed, const char* what) {
  const std::vector<float> x = floats(expected);
  const std::vector<float> y = floats(got);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!(std::fabs(static_cast<double>(x[i]) - y[i]) <= allowed(i))) {
      return fmt::format("element {} of {} is {}, on the CPU {}", i, what, y[i], x[i]);
    }
  }
  return {};
}

SelfTest run(std::string name, const std::function<std::string()>& disagreement) {
  SelfTest test;
  test.name = std::move(name);
  const auto start = std::chrono::steady_clock::now();
  try {
    test.reason = disagreement();
  } catch (const std::exception& error) {
    test.reason = error.what();
  }
  if (!test.reason.empty()) test.verdict = SelfTest::Verdict::Failed;
  test.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return test;
}

// --- Quantisers. ---

QuantSpec fp4(Granularity granularity, ScaleRule rule, Rounding rounding = Rounding::NearestEven) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = granularity;
  spec.scale = rule;
  spec.rounding = rounding;
  return spec;
}

struct Named {
  const char* name;
  QuantSpec spec;
};

std::vector<Named> quantisers() {
  const Granularity mx = Granularity::block(1, 32);
  const Granularity nv = Granularity::block(1, 16);
  std::vector<Named> all = {
      {"FP4 rows", fp4(Granularity::per_row(), ScaleRule::Absmax)},
      {"FP4 rows, ties up, powers of two", fp4(Granularity::per_row(), ScaleRule::AbsmaxPow2, Rounding::NearestUp)},
      {"MXFP4", fp4(mx, ScaleRule::Ceil6)},
      {"MXFP4 stochastic", fp4(mx, ScaleRule::RangeMatch34, Rounding::Stochastic)},
      {"NVFP4 1x16", fp4(nv, ScaleRule::Nvfp4)},
      {"NVFP4 1x16 stochastic, rotated", fp4(nv, ScaleRule::Nvfp4, Rounding::Stochastic)},
      {"NVFP4 16x16", fp4(Granularity::block(16, 16), ScaleRule::Nvfp4)},
      {"FP4 rows transposed", fp4(Granularity::per_row(), ScaleRule::Absmax)},
      {"FP4 rows clamped", fp4(Granularity::per_row(), ScaleRule::Absmax)},
  };
  all[5].spec.hadamard = {16, Hadamard::Signs::Vector, false};
  all[7].spec.transposed = true;
  all[8].spec.clamp = {0.99, true, ResidualMode::None};
  return all;
}

std::string check_quantiser(const QuantSpec& spec) {
  Arena here;
  Arena there(Device::Cuda, std::size_t{1} << 20);
  const OwnedTensor x = random_matrix(DType::BF16, 96, 256, 1);
  const OwnedTensor on_gpu = copy_to(x, Device::Cuda);
  QuantizeContext context;
  context.random = {7, 3, 1};
  const QTensor expected = quantize(x, spec, context, here);
  const QTensor got = quantize(on_gpu, spec, context, there);
  std::string wrong = compare_bits(expected.codes, got.codes, "codes");
  if (wrong.empty()) wrong = compare_bits(expected.scales, got.scales, "scales");
  const float device_scale = got.device_scale.defined() ? floats(got.device_scale)[0] : 1.0f;
  if (wrong.empty() && expected.tensor_scale != got.tensor_scale * device_scale) {
    wrong =
        fmt::format("the tensor scale is {}, on the CPU {}", got.tensor_scale * device_scale, expected.tensor_scale);
  }
  return wrong;
}

// --- Products. ---

/// The sizes of the terms of a product: codes without signs, or magnitudes.
QTensor magnitudes(const QTensor& q, OwnedTensor& codes) {
  QTensor size = q;
  codes = OwnedTensor(q.codes.dtype(), q.codes.shape());
  if (q.codes.dtype() == DType::U8) {
    for (std::int64_t i = 0; i < q.codes.numel(); ++i) {
      codes.view().data<std::uint8_t>()[i] = q.codes.data<std::uint8_t>()[i] & 0x77u;
    }
  } else {
    std::vector<float> values = floats(q.codes);
    for (float& value : values) value = std::fabs(value);
    convert(Tensor::of(values.data(), {q.codes.numel()}), codes);
  }
  size.codes = codes;
  return size;
}

/// |C - the CPU's| within `tolerance` of sum |a b|; 0: the same numbers.
std::string check_product(const QTensor& a, const QTensor& b, bool folded, double tolerance) {
  Arena here;
  Arena there(Device::Cuda, std::size_t{1} << 20);
  const DeviceOperand x(a, true);
  const DeviceOperand y(b, true);
  OwnedTensor size_of_a;
  OwnedTensor size_of_b;
  const QTensor a_size = magnitudes(a, size_of_a);
  const QTensor b_size = magnitudes(b, size_of_b);
  const OwnedTensor expected(DType::F32, {a.rows, b.rows});
  const OwnedTensor size(DType::F32, {a.rows, b.rows});
  const OwnedTensor got(DType::F32, {a.rows, b.rows}, Device::Cuda);
  gemm({a, false, folded}, {b, false, folded}, expected, Accumulate::Overwrite, here);
  gemm({a_size, false, folded}, {b_size, false, folded}, size, Accumulate::Overwrite, here);
  gemm({x.q(), false, folded}, {y.q(), false, folded}, got, Accumulate::Overwrite, there);
  const auto* bound = size.view().data<float>();
  return compare_numbers(
      expected, got, [&](std::size_t i) { return tolerance * static_cast<double>(bound[i]); }, "C");
}

GemmPath path_on_gpu(const QTensor& a, const QTensor& b, bool folded) {
  const DeviceOperand x(a);
  const DeviceOperand y(b);
  return gemm_path({x.q(), false, folded}, {y.q(), false, folded});
}

/// What a path may lose, of sum |a b|. FP8: nothing on codes of four bits, whose scales are multiplied in afterwards; a
/// little on MXFP4 that became FP8.
double tolerance_of(GemmPath path, bool mxfp4) {
  switch (path) {
    case GemmPath::Fp8: return mxfp4 ? 0x1p-9 : 0x1p-21;
    case GemmPath::Native: return 0x1p-9;
    case GemmPath::F32: return 0x1p-18;
    case GemmPath::Bf16: return 0x1p-16;
    default: return 0x1p-21;
  }
}

void add_products(std::vector<SelfTest>& tests) {
  Arena arena;
  const std::int64_t m = 208;
  const std::int64_t n = 144;
  const std::int64_t k = 1056;
  const auto operands = [&](const QuantSpec& spec, std::uint32_t seed, std::int64_t rows) {
    return quantize(random_matrix(DType::F32, rows, k, seed), spec, {}, arena);
  };
  const QuantSpec rows = fp4(Granularity::per_row(), ScaleRule::Absmax);
  const QuantSpec mx = fp4(Granularity::block(1, 32), ScaleRule::Ceil6);
  const QuantSpec nv = fp4(Granularity::block(1, 16), ScaleRule::Nvfp4);
  const OwnedTensor bf16_values = random_matrix(DType::BF16, m, k, 9);
  const OwnedTensor f32_values = random_matrix(DType::F32, m, k, 10);
  struct Product {
    const char* name;
    QTensor a;
    QTensor b;
    bool folded;
    bool exact;
  };
  const Product products[] = {
      {"FP4 codes", operands(rows, 1, m), operands(rows, 2, n), true, true},
      {"FP4 rows", operands(rows, 1, m), operands(rows, 2, n), false, false},
      {"MXFP4", operands(mx, 3, m), operands(mx, 4, n), false, false},
      {"NVFP4", operands(nv, 5, m), operands(nv, 6, n), false, false},
      {"BF16 by NVFP4", QTensor::view(bf16_values), operands(nv, 6, n), false, false},
      {"F32 by NVFP4", QTensor::view(f32_values), operands(nv, 6, n), false, false},
  };
  for (const Product& p : products) {
    const GemmPath path = path_on_gpu(p.a, p.b, p.folded);
    tests.push_back(run(fmt::format("product {}, path {}", p.name, gemm_path_name(path)), [&] {
      return check_product(p.a, p.b, p.folded, p.exact ? 0 : tolerance_of(path, p.a.scale_format == ScaleFormat::E8M0));
    }));
  }
}

// --- Attention. ---

std::string check_attention(bool backward) {
  const AttentionShape s{2, 96, 4, 2, 64};
  const std::int64_t tokens = s.batch * s.seq;
  const std::int64_t width = s.heads * s.head_dim;
  const std::int64_t all = (s.heads + 2 * s.kv_heads) * s.head_dim;
  Arena here;
  Arena there(Device::Cuda, std::size_t{1} << 20);
  const auto close = [](const Tensor& expected, const Tensor& got, const char* what) {
    double largest = 0;
    for (const float x : floats(expected)) largest = std::max(largest, std::fabs(static_cast<double>(x)));
    return compare_numbers(
        expected, got, [&](std::size_t) { return 0x1p-6 * largest; }, what);
  };
  const OwnedTensor qkv = random_matrix(DType::BF16, tokens, all, 11);
  const OwnedTensor qkv_gpu = copy_to(qkv, Device::Cuda);
  const OwnedTensor out(DType::BF16, {tokens, width});
  const OwnedTensor out_gpu(DType::BF16, {tokens, width}, Device::Cuda);
  const OwnedTensor lse(DType::F32, {s.batch * s.heads, s.seq});
  const OwnedTensor lse_gpu(DType::F32, {s.batch * s.heads, s.seq}, Device::Cuda);
  attention_forward(s, qkv, out, lse, here);
  attention_forward(s, qkv_gpu, out_gpu, lse_gpu, there);
  if (!backward) {
    const std::string wrong = close(out, out_gpu, "the output");
    return wrong.empty() ? close(lse, lse_gpu, "the log-sum-exp") : wrong;
  }
  const OwnedTensor dout = random_matrix(DType::BF16, tokens, width, 12);
  const OwnedTensor dout_gpu = copy_to(dout, Device::Cuda);
  const OwnedTensor dqkv(DType::BF16, {tokens, all});
  const OwnedTensor dqkv_gpu(DType::BF16, {tokens, all}, Device::Cuda);
  attention_backward(s, qkv, out, lse, dout, dqkv, here);
  attention_backward(s, qkv_gpu, out_gpu, lse_gpu, dout_gpu, dqkv_gpu, there);
  return close(dqkv, dqkv_gpu, "the gradient");
}

std::vector<SelfTest> run_all() {
  std::vector<SelfTest> tests;
  if (cuda_devices() == 0) return tests;
  for (const Named& q : quantisers()) {
    tests.push_back(run(fmt::format("quantise {}", q.name), [&] { return check_quantiser(q.spec); }));
  }
  add_products(tests);
  tests.push_back(run("attention forward", [] { return check_attention(false); }));
  tests.push_back(run("attention backward", [] { return check_attention(true); }));
  const std::vector<SelfTest> native = cuda::native_self_tests();
  tests.insert(tests.end(), native.begin(), native.end());
  return tests;
}

}  // namespace

const char* verdict_name(SelfTest::Verdict verdict) {
  switch (verdict) {
    case SelfTest::Verdict::Passed: return "passed";
    case SelfTest::Verdict::Failed: return "failed";
    case SelfTest::Verdict::Refused: return "refused";
  }
  return "?";
}

const std::vector<SelfTest>& self_tests() {
  static const std::vector<SelfTest> tests = run_all();
  return tests;
}

}  // namespace nibble
