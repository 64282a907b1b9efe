#include <algorithm>
#include <cmath>
#include <functional>

#include "nibble/ops/gemm.h"
#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"
#include "tests/ops/operands.h"
#include "tests/quant/cuda_qtensor.h"

namespace nibble {
namespace {

using testing::Extent;
using testing::filled;
using testing::kOrders;
using testing::make_operand;
using testing::naive;
using testing::Operand;
using testing::OperandSpec;
using testing::Oracle;
using testing::Order;
using testing::stored;
using testing_support::expect_close;
using testing_support::expect_same_bits;
using testing_support::GpuQTensor;
using testing_support::on_cpu;
using testing_support::on_gpu;
using testing_support::random_tensor;

constexpr Extent kExtents[] = {{1, 1, 1},     {1, 7, 3},      {5, 1, 2},      {3, 17, 33},    {64, 64, 64},
                               {65, 31, 7},   {130, 257, 5},  {33, 300, 129}, {70, 129, 65},  {131, 96, 256},
                               {16, 16, 400}, {200, 144, 80}, {96, 272, 304}, {257, 130, 200}};

Granularity vectors(bool transposed) { return transposed ? Granularity::per_column() : Granularity::per_row(); }

OperandSpec element(ElementFormat format, ScaleFormat scales = ScaleFormat::None,
                    Granularity granularity = Granularity::per_tensor()) {
  OperandSpec spec;
  spec.element = format;
  spec.scale_format = scales;
  spec.granularity = granularity;
  return spec;
}

/// C on the CPU after a product on the GPU, from what C held before.
OwnedTensor gpu_gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& before, Accumulate accumulate) {
  Arena scratch(Device::Cuda, std::size_t{1} << 20);
  const OwnedTensor c = on_gpu(before);
  gemm(a, b, c, accumulate, scratch);
  EXPECT_EQ(scratch.mark().block, 0u);
  EXPECT_EQ(scratch.mark().offset, 0u);
  return on_cpu(c);
}

/// The product on the GPU, overwriting NaNs (as F32 and as BF16) and added to numbers, against the oracle: within
/// `tolerance` of sum |a b|, equal if it is 0, and the rounding of C.
void expect_product(const Operand& a, const Operand& b, const GemmOperand& x, const GemmOperand& y, const Extent& s,
                    double tolerance) {
  const Oracle o = naive({a.q, x.transposed, x.scales_folded}, {b.q, y.transposed, y.scales_folded}, s);
  for (const DType dtype : {DType::F32, DType::BF16}) {
    for (const Accumulate accumulate : {Accumulate::Overwrite, Accumulate::Add}) {
      const bool add = accumulate == Accumulate::Add;
      const OwnedTensor before = filled(dtype, s, add ? 3.0f : NAN);
      const OwnedTensor c = gpu_gemm(x, y, before, accumulate);
      const std::vector<double> got = testing_support::doubles(c);
      // Where it adds to BF16, cuBLASLt rounds the product first.
      const double rounding = dtype == DType::BF16 ? (add ? 0x1p-7 : 0x1p-8)
                              : add                ? 0x1p-23
                              : tolerance == 0     ? 0
                                                   : 0x1p-22;
      for (std::size_t i = 0; i < got.size(); ++i) {
        const double expected = o.sum[i] + (add ? 3.0 : 0.0);
        const double allowed = tolerance * o.magnitude[i] + rounding * (std::fabs(o.sum[i]) + 3.0 * add);
        ASSERT_LE(std::fabs(got[i] - expected), allowed) << (add ? "added to " : "") << dtype_name(dtype) << " element "
                                                         << i << ": " << got[i] << ", not " << expected;
      }
    }
  }
}

// What sums lose, of sum |a b|: FP8 products in the accumulators between two additions in F32, BF16 and F32 products in
// F32.
constexpr double kFp8 = 0x1p-9;
constexpr double kBf16 = 0x1p-16;
constexpr double kF32 = 0x1p-18;

/// What the two operands of a case are, stored transposed or not.
using Make = std::function<OperandSpec(bool transposed)>;

void expect_products(const Make& make_a, const Make& make_b, GemmPath path, double tolerance) {
  unsigned seed = 1;
  for (const Extent& s : kExtents) {
    for (const Order& order : kOrders) {
      SCOPED_TRACE(fmt::format("{}x{}x{} transposed {} {} seed {}", s.m, s.n, s.k, order.a_transposed,
                               order.b_transposed, ++seed));
      const Operand a = stored(make_a(order.a_transposed), s.m, s.k, order.a_transposed, seed);
      const Operand b = stored(make_b(order.b_transposed), s.n, s.k, order.b_transposed, seed + 1000);
      const GpuQTensor p(a.q);
      const GpuQTensor q(b.q);
      const GemmOperand x{p.q, order.a_transposed};
      const GemmOperand y{q.q, order.b_transposed};
      // Scales that lie along a contraction do not in the tiny extents that one block covers.
      const GemmPath taken = gemm_path(x, y);
      if (s.m > 1 && s.n > 1 && s.k > 128) {
        ASSERT_EQ(taken, path);
      }
      const bool eight_bits = !is_four_bit(a.q.element) || !is_four_bit(b.q.element);
      const bool lossy = taken == GemmPath::Fp8 && path != GemmPath::Fp8 && eight_bits;
      expect_product(a, b, x, y, s, lossy ? std::max(tolerance, kFp8) : tolerance);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

Make plain(ElementFormat format) {
  return [=](bool) { return element(format); };
}
Make by_vector(ElementFormat format, ScaleFormat scales = ScaleFormat::F32) {
  return [=](bool transposed) { return element(format, scales, vectors(transposed)); };
}

constexpr ElementFormat kFourBit[] = {ElementFormat::E2M1, ElementFormat::Int4, ElementFormat::E3M0};

// --- FP8 tensor cores. ---

TEST(CudaGemmFp8, EveryPairOfCodesMultipliesExactly) {
  NIBBLE_NEEDS_GPU();
  // Row i of A is code i in every place, and so is row i of B.
  const std::int64_t k = 5;
  for (const ElementFormat left : kFourBit) {
    for (const ElementFormat right : kFourBit) {
      const Operand a = make_operand(element(left), 16, k, 1);
      const Operand b = make_operand(element(right), 16, k, 1);
      for (std::uint8_t code = 0; code < 16; ++code) {
        for (std::int64_t i = 0; i < k; ++i) {
          set_code(a, code, i, code);
          set_code(b, code, i, code);
        }
      }
      const GpuQTensor p(a.q);
      const GpuQTensor q(b.q);
      ASSERT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Fp8);
      expect_product(a, b, {p.q}, {q.q}, {16, 16, k}, 0);
    }
  }
}

TEST(CudaGemmFp8, EveryEightBitCodeKeepsItsValue) {
  NIBBLE_NEEDS_GPU();
  // A holds all codes, B is the identity in E2M1.
  const std::int64_t n = 16;
  const Operand identity = make_operand(element(ElementFormat::E2M1), n, n, 1);
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c < n; ++c) set_code(identity, r, c, r == c ? 2 : 0);
  }
  const GpuQTensor q(identity.q);
  for (const ElementFormat format : {ElementFormat::E4M3, ElementFormat::E5M2}) {
    for (const bool transposed : {false, true}) {
      const Operand a = make_operand(element(format), n, n, 1);
      for (int code = 0; code < 256; ++code) {
        const auto c = static_cast<std::uint8_t>(code);
        const float value = format == ElementFormat::E4M3 ? e4m3_decode(c) : e5m2_decode(c);
        a.q.codes.data<std::uint8_t>()[code] = float_is_finite(value) ? c : 0;
      }
      const GpuQTensor p(a.q);
      expect_product(a, identity, {p.q, transposed}, {q.q}, {n, n, n}, 0);
    }
  }
}

TEST(CudaGemmFp8, FourBitCodesGiveTheExactSumForEveryShapeAndStorageOrder) {
  NIBBLE_NEEDS_GPU();
  for (const ElementFormat left : kFourBit) {
    for (const ElementFormat right : kFourBit) {
      SCOPED_TRACE(fmt::format("elements {} {}", static_cast<int>(left), static_cast<int>(right)));
      // E3M0 by E3M0 spans 2^-4 to 2^8: more than the accumulators hold.
      const bool exact = left != ElementFormat::E3M0 || right != ElementFormat::E3M0;
      expect_products(plain(left), plain(right), GemmPath::Fp8, exact ? 0 : kFp8);
    }
  }
}

/// While it lives, FP8 products leave their sums in the accumulators.
struct FastAccumulation {
  FastAccumulation() { set_fp8_accumulation(Fp8Accumulation::Fast); }
  ~FastAccumulation() { set_fp8_accumulation(Fp8Accumulation::F32); }
};

TEST(CudaGemmFp8, FastAccumulationIsExactForFourBitCodesWhoseSumsStaySmall) {
  NIBBLE_NEEDS_GPU();
  const FastAccumulation fast;
  expect_products(plain(ElementFormat::E2M1), plain(ElementFormat::E2M1), GemmPath::Fp8, 0);
}

TEST(CudaGemmFp8, FastAccumulationOfSumsOfOneSignIsWithinItsBound) {
  NIBBLE_NEEDS_GPU();
  const std::int64_t k = 8192;
  const std::int64_t n = 64;
  const Operand a = make_operand(element(ElementFormat::E2M1), n, k, 1);
  const Operand b = make_operand(element(ElementFormat::E2M1), n, k, 2);
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      set_code(a, r, c, static_cast<std::uint8_t>((r + c) % 8));
      set_code(b, r, c, static_cast<std::uint8_t>((3 * r + 5 * c) % 8));
    }
  }
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  expect_product(a, b, {p.q}, {q.q}, {n, n, k}, 0);
  const FastAccumulation fast;
  // Each of K / 32 additions cuts at most 2^-13 of what is there, which is below the whole sum.
  expect_product(a, b, {p.q}, {q.q}, {n, n, k}, static_cast<double>(k) / 32 * 0x1p-13);
}

TEST(CudaGemmFp8, ScalesOfRowsAndColumns) {
  NIBBLE_NEEDS_GPU();
  expect_products(by_vector(ElementFormat::E2M1), by_vector(ElementFormat::E2M1), GemmPath::Fp8, 0x1p-22);
  expect_products(by_vector(ElementFormat::E4M3), by_vector(ElementFormat::E2M1), GemmPath::Fp8, kFp8);
  expect_products(by_vector(ElementFormat::E5M2, ScaleFormat::E8M0), by_vector(ElementFormat::E4M3), GemmPath::Fp8,
                  kFp8);
}

TEST(CudaGemmFp8, ScalesOfTensors) {
  NIBBLE_NEEDS_GPU();
  const auto tensor = [](ElementFormat format, float tensor_scale) -> Make {
    return [=](bool) {
      OperandSpec spec = element(format, ScaleFormat::F32);
      spec.tensor_scale = tensor_scale;
      return spec;
    };
  };
  const auto host = [](bool) {
    OperandSpec spec = element(ElementFormat::E2M1);
    spec.tensor_scale = 0.3f;
    return spec;
  };
  expect_products(tensor(ElementFormat::E2M1, 1.0f), tensor(ElementFormat::Int4, 0.7f), GemmPath::Fp8, 0x1p-22);
  expect_products(host, host, GemmPath::Fp8, 0x1p-22);
  expect_products(tensor(ElementFormat::E4M3, 1.0f), by_vector(ElementFormat::E2M1), GemmPath::Fp8, kFp8);
  expect_products(by_vector(ElementFormat::E2M1), host, GemmPath::Fp8, 0x1p-22);
}

TEST(CudaGemmFp8, RowBlocksSecondLevelsAndDeviceScales) {
  NIBBLE_NEEDS_GPU();
  const Extent s{64, 48, 16};
  OperandSpec rows = element(ElementFormat::E2M1, ScaleFormat::E8M0, Granularity{16, 0});
  rows.tensor_scale = 4.0f / 3.0f;
  OperandSpec second = element(ElementFormat::E2M1, ScaleFormat::UE4M3, Granularity::block(1, 16));
  second.outer = 128;  // covers its row, so that all its scales are outer ones
  second.tensor_scale = 0.01f;
  const Operand a = make_operand(rows, s.m, s.k, 1);
  const Operand b = make_operand(second, s.n, s.k, 2);
  GpuQTensor p(a.q);
  GpuQTensor q(b.q);
  for (int on_device = 0; on_device < 2; ++on_device) {
    ASSERT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Fp8);
    expect_product(a, b, {p.q}, {q.q}, s, 0x1p-22);
    p.put_tensor_scale_on_device();
    q.put_tensor_scale_on_device();
  }
}

TEST(CudaGemmFp8, FoldedScalesAreLeftOut) {
  NIBBLE_NEEDS_GPU();
  const Extent s{70, 96, 130};
  const Operand a = make_operand(element(ElementFormat::E4M3, ScaleFormat::F32, Granularity::per_row()), s.m, s.k, 1);
  // The scales of W [K, N], one a row, lie along the contraction.
  OperandSpec w = element(ElementFormat::E2M1, ScaleFormat::F32, Granularity::per_row());
  w.tensor_scale = 5.0f;
  const Operand b = make_operand(w, s.k, s.n, 2);
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  ASSERT_EQ(gemm_path({p.q}, {q.q, true, true}), GemmPath::Fp8);
  expect_product(a, b, {p.q}, {q.q, true, true}, s, kFp8);
  ASSERT_NE(gemm_path({p.q}, {q.q, true, false}), GemmPath::Fp8);
}

QuantSpec fp4_rows() {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::per_row();
  spec.scale = ScaleRule::Absmax;
  return spec;
}

TEST(CudaGemmFp8, QuantisedMatricesGiveTheIntegersOfTheCpu) {
  NIBBLE_NEEDS_GPU();
  // The CPU sums the codes as integers: without scales both devices have the exact sums, every element of them.
  const Extent shapes[] = {{1024, 512, 2048}, {512, 768, 5632}, {130, 200, 4100}};
  for (const Extent& s : shapes) {
    SCOPED_TRACE(fmt::format("{}x{}x{}", s.m, s.n, s.k));
    Arena arena;
    const QTensor a = quantize(random_tensor(DType::F32, {s.m, s.k}, 1), fp4_rows(), {}, arena);
    const QTensor b = quantize(random_tensor(DType::F32, {s.n, s.k}, 2), fp4_rows(), {}, arena);
    const GpuQTensor p(a);
    const GpuQTensor q(b);
    for (const bool folded : {true, false}) {
      const OwnedTensor before = filled(DType::F32, s, NAN);
      const OwnedTensor expected = filled(DType::F32, s, NAN);
      gemm({a, false, folded}, {b, false, folded}, expected, Accumulate::Overwrite, arena);
      const OwnedTensor got = gpu_gemm({p.q, false, folded}, {q.q, false, folded}, before, Accumulate::Overwrite);
      if (folded) {
        expect_same_bits(expected, got, "product of codes");
      } else {
        expect_close(expected, got, 0x1p-22, "product with scales");
      }
    }
  }
}

TEST(CudaGemmFp8, ScalesOf128AlongTheContraction) {
  NIBBLE_NEEDS_GPU();
  const auto blocks128 = [](ElementFormat format) {
    return element(format, ScaleFormat::F32, Granularity::block(1, 128));
  };
  unsigned seed = 40;
  for (const auto& [left, right] :
       {std::pair(ElementFormat::E2M1, ElementFormat::E2M1), std::pair(ElementFormat::E4M3, ElementFormat::E4M3),
        std::pair(ElementFormat::E5M2, ElementFormat::E4M3), std::pair(ElementFormat::E4M3, ElementFormat::E5M2)}) {
    for (const Extent& s : {Extent{64, 64, 256}, Extent{80, 48, 1024}, Extent{16, 16, 384}, Extent{272, 144, 640},
                            Extent{640, 1792, 2048}}) {
      SCOPED_TRACE(
          fmt::format("{} by {}: {} x {} x {}", static_cast<int>(left), static_cast<int>(right), s.m, s.n, s.k));
      const Operand a = make_operand(blocks128(left), s.m, s.k, ++seed);
      const Operand b = make_operand(blocks128(right), s.n, s.k, ++seed);
      const GpuQTensor p(a.q);
      const GpuQTensor q(b.q);
      EXPECT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Fp8);
      const bool four_bits = left == ElementFormat::E2M1;
      expect_product(a, b, {p.q}, {q.q}, s, four_bits ? 0x1p-20 : kFp8);
    }
  }
}

TEST(CudaGemmFp8, ScalesOf128ThatTheLibraryDoesNotTakeGoAnotherWay) {
  NIBBLE_NEEDS_GPU();
  const OperandSpec spec = element(ElementFormat::E4M3, ScaleFormat::F32, Granularity::block(1, 128));
  for (const Extent& s : {Extent{64, 60, 256}, Extent{64, 64, 250}, Extent{70, 64, 256}}) {
    const Operand a = make_operand(spec, s.m, s.k, 1);
    const Operand b = make_operand(spec, s.n, s.k, 2);
    const GpuQTensor p(a.q);
    const GpuQTensor q(b.q);
    ASSERT_EQ(gemm_path({p.q}, {q.q}), GemmPath::F32);
    expect_product(a, b, {p.q}, {q.q}, s, kF32);
  }
}

// --- BF16 tensor cores. ---

Make blocks(ElementFormat format, ScaleFormat scales, Granularity granularity) {
  return [=](bool) { return element(format, scales, granularity); };
}

TEST(CudaGemmBf16, Bf16Matrices) {
  NIBBLE_NEEDS_GPU();
  expect_products(plain(ElementFormat::BF16), plain(ElementFormat::BF16), GemmPath::Bf16, kBf16);
}

TEST(CudaGemmBf16, Mxfp4AndMxfp8) {
  NIBBLE_NEEDS_GPU();
  // Through FP8: cuda_mx_gemm_test.cpp.
  struct Bf16Products {
    Bf16Products() { set_mx_products(MxProducts::Bf16); }
    ~Bf16Products() { set_mx_products(MxProducts::Fp8); }
  } bf16_products;
  const Make mxfp4 = blocks(ElementFormat::E2M1, ScaleFormat::E8M0, Granularity::block(1, 32));
  const Make mxfp8 = blocks(ElementFormat::E4M3, ScaleFormat::E8M0, Granularity::block(1, 32));
  const Make mxe5m2 = blocks(ElementFormat::E5M2, ScaleFormat::E8M0, Granularity::block(32, 1));
  expect_products(mxfp4, mxfp4, GemmPath::Bf16, kBf16);
  expect_products(mxfp8, mxe5m2, GemmPath::Bf16, kBf16);
}

TEST(CudaGemmBf16, Nvfp4OfEveryBlockShape) {
  NIBBLE_NEEDS_GPU();
  const auto nvfp4 = [](Granularity granularity, float tensor_scale) -> Make {
    return [=](bool) {
      OperandSpec spec = element(ElementFormat::E2M1, ScaleFormat::UE4M3, granularity);
      spec.tensor_scale = tensor_scale;
      return spec;
    };
  };
  expect_products(nvfp4(Granularity::block(1, 16), 0.01f), nvfp4(Granularity::block(16, 16), 3.0f), GemmPath::Bf16,
                  kBf16);
  expect_products(nvfp4(Granularity::block(16, 1), 1.0f), nvfp4(Granularity::block(1, 16), 1.0f), GemmPath::Bf16,
                  kBf16);
}

TEST(CudaGemmBf16, MixedOperandsWithScalesOfRows) {
  NIBBLE_NEEDS_GPU();
  const Make mxfp4 = blocks(ElementFormat::Int4, ScaleFormat::E8M0, Granularity::block(1, 32));
  expect_products(by_vector(ElementFormat::E2M1), plain(ElementFormat::BF16), GemmPath::Bf16, kBf16);
  expect_products(plain(ElementFormat::BF16), by_vector(ElementFormat::E4M3), GemmPath::Bf16, kBf16);
  expect_products(mxfp4, by_vector(ElementFormat::E3M0, ScaleFormat::E8M0), GemmPath::Bf16, kBf16);
  // The library has no FP8 product of E5M2 by E5M2.
  expect_products(by_vector(ElementFormat::E5M2), by_vector(ElementFormat::E5M2), GemmPath::Bf16, kBf16);
}

TEST(CudaGemmBf16, TheTensorScaleOnTheDeviceCountsLikeTheHosts) {
  NIBBLE_NEEDS_GPU();
  const Extent s{96, 80, 200};
  OperandSpec spec = element(ElementFormat::E2M1, ScaleFormat::UE4M3, Granularity::block(1, 16));
  spec.tensor_scale = 0.37f;
  const Operand a = make_operand(spec, s.m, s.k, 1);
  const Operand b = make_operand(element(ElementFormat::BF16), s.n, s.k, 2);
  const Operand rows =
      make_operand(element(ElementFormat::E2M1, ScaleFormat::F32, Granularity::per_row()), s.n, s.k, 3);
  GpuQTensor p(a.q);
  p.put_tensor_scale_on_device();
  const GpuQTensor q(b.q);
  const GpuQTensor r(rows.q);
  expect_product(a, b, {p.q}, {q.q}, s, kBf16);
  expect_product(a, rows, {p.q}, {r.q}, s, kBf16);
}

TEST(CudaGemmBf16, QuantisedNvfp4AgreesWithTheCpu) {
  NIBBLE_NEEDS_GPU();
  const Extent s{512, 384, 2048};
  Arena arena;
  QuantSpec spec = fp4_rows();
  spec.granularity = Granularity::block(1, 16);
  spec.scale = ScaleRule::Nvfp4;
  const QTensor a = quantize(random_tensor(DType::F32, {s.m, s.k}, 1, 0x1p-10f), spec, {}, arena);
  const QTensor b = quantize(random_tensor(DType::F32, {s.n, s.k}, 2), spec, {}, arena);
  const OwnedTensor expected = filled(DType::F32, s, NAN);
  gemm({a}, {b}, expected, Accumulate::Overwrite, arena);
  GpuQTensor p(a);
  const GpuQTensor q(b);
  p.put_tensor_scale_on_device();
  ASSERT_EQ(gemm_path({p.q}, {q.q}), GemmPath::Bf16);
  expect_close(expected, gpu_gemm({p.q}, {q.q}, filled(DType::F32, s, NAN), Accumulate::Overwrite), 0x1p-18, "NVFP4");
}

// --- F32. ---

TEST(CudaGemmF32, F32Matrices) {
  NIBBLE_NEEDS_GPU();
  expect_products(plain(ElementFormat::F32), plain(ElementFormat::F32), GemmPath::F32, kF32);
  expect_products(plain(ElementFormat::F32), plain(ElementFormat::BF16), GemmPath::F32, kF32);
}

TEST(CudaGemmF32, F32ScalesAlongTheContraction) {
  NIBBLE_NEEDS_GPU();
  const Make block = blocks(ElementFormat::E4M3, ScaleFormat::F32, Granularity::block(1, 128));
  const auto wrong_way = [](bool transposed) {  // a scale for each place of the contraction
    return element(ElementFormat::E2M1, ScaleFormat::F32, vectors(!transposed));
  };
  const auto second_level = [](bool) {
    OperandSpec spec = element(ElementFormat::E2M1, ScaleFormat::UE4M3, Granularity::block(1, 16));
    spec.outer = 128;
    spec.tensor_scale = 1.5f;
    return spec;
  };
  expect_products(block, by_vector(ElementFormat::E5M2), GemmPath::F32, kF32);
  expect_products(wrong_way, plain(ElementFormat::F32), GemmPath::F32, kF32);
  expect_products(second_level, block, GemmPath::F32, kF32);
}

// --- Of all paths. ---

TEST(CudaGemm, AnEmptyContractionGivesZeros) {
  NIBBLE_NEEDS_GPU();
  const Extent s{5, 7, 0};
  const Operand a = make_operand(element(ElementFormat::BF16), s.m, s.k, 1);
  const Operand b = make_operand(element(ElementFormat::BF16), s.n, s.k, 2);
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  const OwnedTensor zero = filled(DType::F32, s, 0.0f);
  const OwnedTensor three = filled(DType::F32, s, 3.0f);
  expect_same_bits(zero, gpu_gemm({p.q}, {q.q}, filled(DType::F32, s, NAN), Accumulate::Overwrite), "overwritten");
  expect_same_bits(three, gpu_gemm({p.q}, {q.q}, three, Accumulate::Add), "added to");
}

TEST(CudaGemm, AProductWithoutRowsLeavesNothing) {
  NIBBLE_NEEDS_GPU();
  const Extent s{0, 7, 32};
  const Operand a = make_operand(element(ElementFormat::E2M1), s.m, s.k, 1);
  const Operand b = make_operand(element(ElementFormat::E2M1), s.n, s.k, 2);
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  EXPECT_EQ(gpu_gemm({p.q}, {q.q}, filled(DType::F32, s, NAN), Accumulate::Overwrite).view().numel(), 0);
}

TEST(CudaGemm, TwoRunsGiveTheSameBits) {
  NIBBLE_NEEDS_GPU();
  // Few tiles and a long contraction, as in the weight gradients of small layers: the library splits it.
  const Extent s{256, 128, 8192};
  const OperandSpec specs[] = {element(ElementFormat::E2M1, ScaleFormat::F32, Granularity::per_row()),
                               element(ElementFormat::E2M1, ScaleFormat::UE4M3, Granularity::block(1, 16)),
                               element(ElementFormat::E4M3, ScaleFormat::F32, Granularity::block(1, 128))};
  for (const OperandSpec& spec : specs) {
    const Operand a = make_operand(spec, s.m, s.k, 1);
    const Operand b = make_operand(spec, s.n, s.k, 2);
    const GpuQTensor p(a.q);
    const GpuQTensor q(b.q);
    const OwnedTensor before = filled(DType::BF16, s, 1.0f);
    const OwnedTensor first = gpu_gemm({p.q}, {q.q}, before, Accumulate::Add);
    for (int i = 0; i < 5; ++i) {
      expect_same_bits(first, gpu_gemm({p.q}, {q.q}, before, Accumulate::Add), "a second run");
    }
  }
}

TEST(CudaGemm, TallProductsGoPanelByPanel) {
  NIBBLE_NEEDS_GPU();
  // More F32 sums than are kept at a time: 64 MiB are 4096 rows of 3970 columns.
  const Extent s{9000, 3970, 48};
  const Operand a = make_operand(element(ElementFormat::E2M1, ScaleFormat::F32, Granularity::per_row()), s.m, s.k, 1);
  const Operand b = make_operand(element(ElementFormat::E2M1, ScaleFormat::F32, Granularity::per_row()), s.n, s.k, 2);
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  Arena arena;
  const OwnedTensor expected = filled(DType::BF16, s, 3.0f);
  const OwnedTensor got = gpu_gemm({p.q}, {q.q}, expected, Accumulate::Add);
  gemm({a.q}, {b.q}, expected, Accumulate::Add, arena);
  expect_close(expected, got, 0x1p-7, "panels");
}

TEST(CudaGemm, MismatchedExtentsThrow) {
  NIBBLE_NEEDS_GPU();
  const Operand a = make_operand(element(ElementFormat::BF16), 8, 16, 1);
  const Operand b = make_operand(element(ElementFormat::BF16), 8, 17, 2);
  const GpuQTensor p(a.q);
  const GpuQTensor q(b.q);
  Arena scratch(Device::Cuda);
  const OwnedTensor c(DType::F32, {8, 8}, Device::Cuda);
  const OwnedTensor narrow(DType::F32, {8, 7}, Device::Cuda);
  EXPECT_THROW(gemm({p.q}, {q.q}, c, Accumulate::Overwrite, scratch), InternalError);
  EXPECT_THROW(gemm({p.q}, {p.q}, narrow, Accumulate::Overwrite, scratch), InternalError);
}

}  // namespace
}  // namespace nibble
