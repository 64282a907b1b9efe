#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "nibble/ops/spmm.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using testing_support::doubles;
using testing_support::expect_same_bits;
using testing_support::on_cpu;
using testing_support::on_gpu;
using testing_support::random_tensor;

/// A sparse matrix on the CPU and on the GPU, with more capacity than entries.
struct Sparse {
  OwnedTensor row_begin, col, value;
  OwnedTensor gpu_row_begin, gpu_col, gpu_value;
  CsrMatrix cpu, gpu;
};

constexpr std::int64_t kSpare = 37;

/// Which numbers the entries are: any F32; BF16, which leave no low part; integers to 511, a quarter of which do; or
/// what clamping BF16 numbers leaves, with one in ten of them 2 to 2^12 times as far out as its bound.
enum class Values { Any, Bf16, Integers, Clamped };

float draw(Values values, std::mt19937& random) {
  std::normal_distribution<float> normal;
  switch (values) {
    case Values::Any: return normal(random);
    case Values::Bf16: return bf16_round(normal(random));
    case Values::Integers: return static_cast<float>(static_cast<int>(random() % 1023) - 511);
    case Values::Clamped: break;
  }
  const float bound = bf16_round(1.0f + std::fabs(normal(random)));
  const float times = random() % 10 == 0 ? std::ldexp(1.7f, static_cast<int>(random() % 12)) : 0.5f;
  const float beyond = bf16_round(bound * (1.0f + times)) - bound;
  return random() % 2 == 0 ? beyond : -beyond;
}

/// `present` says which entries there are.
template <class Present>
Sparse make_sparse(std::int64_t rows, std::int64_t cols, Values values, const Present& present,
                   std::int64_t spare = kSpare) {
  std::mt19937 random(1);
  std::vector<std::int32_t> begin{0};
  std::vector<std::int32_t> col;
  std::vector<float> value;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      if (!present(r, c, random)) continue;
      col.push_back(static_cast<std::int32_t>(c));
      value.push_back(draw(values, random));
    }
    begin.push_back(static_cast<std::int32_t>(col.size()));
  }
  const auto entries = static_cast<std::int64_t>(col.size());
  const std::int64_t capacity = entries + spare;
  Sparse s;
  s.row_begin = OwnedTensor(DType::I32, {rows + 1});
  s.col = OwnedTensor(DType::I32, {capacity});
  s.value = OwnedTensor(DType::F32, {capacity});
  std::copy(begin.begin(), begin.end(), s.row_begin.view().data<std::int32_t>());
  // What lies beyond the entries must not be looked at: no such column, and a number that would show.
  std::fill_n(s.col.view().data<std::int32_t>(), capacity, std::int32_t{1} << 30);
  std::fill_n(s.value.view().data<float>(), capacity, NAN);
  std::copy(col.begin(), col.end(), s.col.view().data<std::int32_t>());
  std::copy(value.begin(), value.end(), s.value.view().data<float>());
  s.gpu_row_begin = on_gpu(s.row_begin);
  s.gpu_col = on_gpu(s.col);
  s.gpu_value = on_gpu(s.value);
  s.cpu = {rows, cols, s.row_begin, s.col, s.value};
  s.gpu = {rows, cols, s.gpu_row_begin, s.gpu_col, s.gpu_value};
  return s;
}

Sparse random_sparse(std::int64_t rows, std::int64_t cols, double density, Values values = Values::Any,
                     std::int64_t spare = kSpare) {
  const auto present = [=](std::int64_t r, std::int64_t, std::mt19937& random) {
    return r % 5 != 3 && std::generate_canonical<double, 32>(random) < density;  // some rows stay empty
  };
  return make_sparse(rows, cols, values, present, spare);
}

/// [outer, inner] in double precision, and the same product of absolute values.
struct Sums {
  std::vector<double> before, exact, magnitude;
};

/// before + residual W^T, W^T [K, N].
Sums fprop_sums(const CsrMatrix& m, const Tensor& w_transposed, const Tensor& before) {
  const std::vector<double> w = doubles(w_transposed);
  Sums sums{doubles(before), doubles(before), {}};
  for (const double y : sums.exact) sums.magnitude.push_back(std::fabs(y));
  const auto n = static_cast<std::size_t>(before.dim(1));
  for (std::int64_t t = 0; t < m.rows; ++t) {
    for (std::int32_t i = m.row_begin.data<std::int32_t>()[t]; i < m.row_begin.data<std::int32_t>()[t + 1]; ++i) {
      const double v = static_cast<double>(m.value.data<float>()[i]);
      const double* row = w.data() + static_cast<std::size_t>(m.col.data<std::int32_t>()[i]) * n;
      for (std::size_t j = 0; j < n; ++j) {
        sums.exact[static_cast<std::size_t>(t) * n + j] += v * row[j];
        sums.magnitude[static_cast<std::size_t>(t) * n + j] += std::fabs(v * row[j]);
      }
    }
  }
  return sums;
}

/// before + dY^T residual, [N, K].
Sums wgrad_sums(const CsrMatrix& m, const Tensor& dy, const Tensor& before) {
  const std::vector<double> gradient = doubles(dy);
  Sums sums{doubles(before), doubles(before), {}};
  for (const double x : sums.exact) sums.magnitude.push_back(std::fabs(x));
  const auto n = static_cast<std::size_t>(before.dim(0));
  const auto k = static_cast<std::size_t>(before.dim(1));
  for (std::int64_t t = 0; t < m.rows; ++t) {
    for (std::int32_t i = m.row_begin.data<std::int32_t>()[t]; i < m.row_begin.data<std::int32_t>()[t + 1]; ++i) {
      const double v = static_cast<double>(m.value.data<float>()[i]);
      const auto c = static_cast<std::size_t>(m.col.data<std::int32_t>()[i]);
      for (std::size_t j = 0; j < n; ++j) {
        const double p = v * gradient[static_cast<std::size_t>(t) * n + j];
        sums.exact[j * k + c] += p;
        sums.magnitude[j * k + c] += std::fabs(p);
      }
    }
  }
  return sums;
}

/// |got - exact| <= share x magnitude + roundings x the type's unit x (|exact| + |what was added|).
void expect_sums(const Sums& expected, const Tensor& got, double share, int roundings) {
  const OwnedTensor on_host = on_cpu(got);
  const std::vector<double> g = doubles(on_host);
  ASSERT_EQ(expected.exact.size(), g.size());
  const double unit = roundings * (got.dtype() == DType::BF16 ? 0x1p-8 : 0x1p-24);
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double rounded = std::fabs(expected.exact[i]) + std::fabs(expected.exact[i] - expected.before[i]);
    ASSERT_LE(std::fabs(g[i] - expected.exact[i]), share * expected.magnitude[i] + unit * rounded) << "element " << i;
  }
}

/// F32 sums of a few hundred terms, and what ops/spmm.h says of a dense residual.
constexpr double kGathered = 0x1p-20;
constexpr double kDense = 0x1p-15;

/// Within the bound of the way that the residual's density asks for, and by that way: only the dense one takes memory
/// in fprop.
void expect_both_products(const Sparse& s, std::int64_t n, DType dense_type, DType out_type) {
  const bool dense = is_dense_residual(s.cpu);
  {
    const bool split = dense && dense_type == DType::BF16;
    Arena scratch(Device::Cuda);
    const OwnedTensor w = random_tensor(dense_type, {s.cpu.cols, n}, 2);
    const OwnedTensor y = random_tensor(out_type, {s.cpu.rows, n}, 3);
    const OwnedTensor gpu_w = on_gpu(w);
    const OwnedTensor gpu_y = on_gpu(y);
    spmm_fprop(s.gpu, gpu_w, gpu_y, scratch);
    expect_sums(fprop_sums(s.cpu, w, y), gpu_y, split ? kDense : kGathered, split ? 2 : 1);
    EXPECT_EQ(scratch.peak_bytes() > 0, split);
    EXPECT_EQ(scratch.mark().offset, 0u);
  }
  if (out_type != DType::F32) return;
  Arena scratch(Device::Cuda);
  const OwnedTensor dy = random_tensor(dense_type, {s.cpu.rows, n}, 4);
  const OwnedTensor dw = random_tensor(DType::F32, {n, s.cpu.cols}, 5);
  const OwnedTensor gpu_dy = on_gpu(dy);
  const OwnedTensor gpu_dw = on_gpu(dw);
  spmm_wgrad(s.gpu, gpu_dy, gpu_dw, scratch);
  expect_sums(wgrad_sums(s.cpu, dy, dw), gpu_dw, dense ? kDense : kGathered, 3);
  EXPECT_EQ(scratch.mark().offset, 0u);
}

constexpr DType kDTypes[] = {DType::F32, DType::BF16};

struct Extents {
  std::int64_t t, k, n;
};

TEST(CudaSpmm, IsWithinItsBoundForEveryShapeAndTypeOfADenseResidual) {
  NIBBLE_NEEDS_GPU();
  // Whole and broken pieces, rows, slabs and blocks; aligned rows and others.
  const Extents extents[] = {{1, 1, 1},      {7, 5, 3},       {70, 130, 64},   {33, 1030, 65},   {65, 513, 257},
                             {100, 64, 300}, {513, 2048, 96}, {600, 3700, 68}, {4000, 520, 104}, {2, 3, 4096}};
  for (const auto& e : extents) {
    for (const DType dense : kDTypes) {
      for (const DType out : kDTypes) {
        SCOPED_TRACE(fmt::format("T {} K {} N {} {} {}", e.t, e.k, e.n, dtype_name(dense), dtype_name(out)));
        expect_both_products(random_sparse(e.t, e.k, 0.05), e.n, dense, out);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(CudaSpmm, IsWithinItsBoundForEveryShapeAndTypeOfAThinResidual) {
  NIBBLE_NEEDS_GPU();
  // One stage and several, whole and broken slabs and blocks of rows, aligned rows and others.
  const Extents extents[] = {{900, 130, 64},  {333, 1030, 65},  {665, 513, 257}, {513, 2048, 96},
                             {600, 3700, 68}, {4000, 520, 104}, {50, 1500, 4096}};
  for (const auto& e : extents) {
    for (const DType dense : kDTypes) {
      for (const DType out : kDTypes) {
        SCOPED_TRACE(fmt::format("T {} K {} N {} {} {}", e.t, e.k, e.n, dtype_name(dense), dtype_name(out)));
        const Sparse s = random_sparse(e.t, e.k, 0.004);
        ASSERT_FALSE(is_dense_residual(s.cpu));
        expect_both_products(s, e.n, dense, out);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(CudaSpmm, TheCapacityDecidesTheWay) {
  NIBBLE_NEEDS_GPU();
  // 200 places to an entry at the border, whatever the number of entries. Both sides pass their bound, and
  // expect_both_products sees which way was taken.
  const std::int64_t rows = 400;
  const std::int64_t cols = 600;
  const std::int64_t border = 1200;
  const auto present = [=](std::int64_t r, std::int64_t c, std::mt19937&) { return r % 2 == 0 && c % 120 == r % 120; };
  const auto entries = make_sparse(rows, cols, Values::Any, present, 0).cpu.nnz();
  ASSERT_LT(entries, border);
  const Sparse below = make_sparse(rows, cols, Values::Any, present, border - 1 - entries);
  const Sparse at = make_sparse(rows, cols, Values::Any, present, border - entries);
  EXPECT_FALSE(is_dense_residual(below.gpu));
  EXPECT_TRUE(is_dense_residual(at.gpu));
  for (const Sparse* s : {&below, &at}) expect_both_products(*s, 72, DType::BF16, DType::F32);
}

TEST(CudaSpmm, ChannelsOfOutliersAndFullRows) {
  NIBBLE_NEEDS_GPU();
  // A column that every row has (or five, three of them in one group of eight), a row that has every column, the first
  // and the last place, and little else.
  const std::int64_t t = 2100;
  const std::int64_t k = 700;
  for (const bool dense : {false, true}) {
    for (const Values values : {Values::Any, Values::Clamped}) {
      const Sparse s = make_sparse(t, k, values, [=](std::int64_t r, std::int64_t c, std::mt19937&) {
        const bool more = dense && (c == 304 || c == 308 || c == 312 || c == 699);
        return c == 311 || more || r == 1000 || (r == 0 && c == 0) || (r == t - 1 && c == k - 1);
      });
      ASSERT_EQ(is_dense_residual(s.cpu), dense);
      for (const DType type : kDTypes) expect_both_products(s, 192, type, DType::F32);
      expect_both_products(s, 192, DType::BF16, DType::BF16);
    }
  }
}

TEST(CudaSpmm, ValuesOfEveryKindAreWithinTheBound) {
  NIBBLE_NEEDS_GPU();
  for (const Values values : {Values::Bf16, Values::Clamped}) {
    for (const DType type : kDTypes)
      expect_both_products(random_sparse(700, 1000, 0.02, values), 256, type, DType::F32);
  }
}

TEST(CudaSpmm, SumsOfIntegersAreExact) {
  NIBBLE_NEEDS_GPU();
  // Products and sums stay below 2^23, so every order gives the CPU's bits: no part of any entry may be missing or
  // counted twice. F32 dY has low parts, too.
  for (const double density : {0.003, 0.02}) {
    for (const std::int64_t n : {192, 77}) {
      const Sparse s = random_sparse(600, 1000, density, Values::Integers);
      ASSERT_EQ(is_dense_residual(s.cpu), density > 0.01);
      std::mt19937 random(7);
      const auto integers = [&](DType dtype, std::int64_t rows, std::int64_t cols, int most) {
        OwnedTensor x(DType::F32, {rows, cols});
        for (std::int64_t i = 0; i < rows * cols; ++i) {
          x.view().data<float>()[i] = static_cast<float>(static_cast<int>(random() % (2 * most + 1)) - most);
        }
        OwnedTensor y(dtype, {rows, cols});
        convert(x, y);
        return y;
      };
      Arena arena;
      Arena scratch(Device::Cuda);
      const OwnedTensor w = integers(DType::BF16, 1000, n, 255);
      const OwnedTensor y = integers(DType::F32, 600, n, 1000);
      const OwnedTensor gpu_y = on_gpu(y);
      spmm_fprop(s.cpu, w, y, arena);
      spmm_fprop(s.gpu, on_gpu(w), gpu_y, scratch);
      expect_same_bits(y, gpu_y, "fprop");
      for (const DType type : kDTypes) {
        const OwnedTensor dy = integers(type, 600, n, type == DType::F32 ? 511 : 255);
        const OwnedTensor dw = integers(DType::F32, n, 1000, 1000);
        const OwnedTensor gpu_dw = on_gpu(dw);
        spmm_wgrad(s.cpu, dy, dw, arena);
        spmm_wgrad(s.gpu, on_gpu(dy), gpu_dw, scratch);
        expect_same_bits(dw, gpu_dw, "wgrad");
      }
    }
  }
}

TEST(CudaSpmm, NumbersBeyondBf16sLargestStayFinite) {
  NIBBLE_NEEDS_GPU();
  // To nearest they would be infinite in BF16.
  const Sparse s = random_sparse(40, 64, 0.3);
  const auto nnz = static_cast<std::size_t>(s.cpu.nnz());
  const float extremes[] = {std::numeric_limits<float>::max(), 0x1p127f, -0x1.FFp127f, 1.1f, 0x1.FF8p127f};
  for (std::size_t i = 0; i < nnz; ++i) s.value.view().data<float>()[i] = extremes[i % 5];
  copy(s.value, s.gpu_value);
  const OwnedTensor w = random_tensor(DType::BF16, {64, 48}, 2, 0x1p-10f);
  const OwnedTensor y(DType::F32, {40, 48});
  fill_zero(y);
  const OwnedTensor gpu_y = on_gpu(y);
  const Sums sums = fprop_sums(s.cpu, w, y);
  Arena scratch(Device::Cuda);
  spmm_fprop(s.gpu, on_gpu(w), gpu_y, scratch);
  expect_sums(sums, gpu_y, kDense, 2);
}

TEST(CudaSpmm, TwoRunsGiveTheSameBits) {
  NIBBLE_NEEDS_GPU();
  for (const double density : {0.003, 0.03}) {
    const Sparse s = random_sparse(3000, 900, density);
    const OwnedTensor w = on_gpu(random_tensor(DType::BF16, {900, 256}, 2));
    const OwnedTensor dy = on_gpu(random_tensor(DType::BF16, {3000, 256}, 3));
    const OwnedTensor wide_dy = on_gpu(random_tensor(DType::F32, {3000, 256}, 4));
    Arena scratch(Device::Cuda);
    OwnedTensor first_y;
    OwnedTensor first_dw;
    for (int run = 0; run < 4; ++run) {
      OwnedTensor y(DType::F32, {3000, 256}, Device::Cuda);
      OwnedTensor dw(DType::F32, {256, 900}, Device::Cuda);
      fill_zero(y);
      fill_zero(dw);
      spmm_fprop(s.gpu, w, y, scratch);
      spmm_wgrad(s.gpu, dy, dw, scratch);
      spmm_wgrad(s.gpu, wide_dy, dw, scratch);
      if (run == 0) {
        first_y = std::move(y);
        first_dw = std::move(dw);
        continue;
      }
      expect_same_bits(first_y, y, "fprop");
      expect_same_bits(first_dw, dw, "wgrad");
    }
  }
}

TEST(CudaSpmm, AMatrixWithoutEntriesChangesNothing) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t spare : {0, 37}) {  // 37 of 180 places: dense by its capacity
    for (const DType type : kDTypes) {
      const Sparse s = random_sparse(9, 20, 0, Values::Any, spare);
      const OwnedTensor w = on_gpu(random_tensor(type, {20, 32}, 2));
      const OwnedTensor y = random_tensor(DType::F32, {9, 32}, 3);
      const OwnedTensor dy = on_gpu(random_tensor(type, {9, 32}, 5));
      const OwnedTensor dw = random_tensor(DType::F32, {32, 20}, 4);
      const OwnedTensor gpu_y = on_gpu(y);
      const OwnedTensor gpu_dw = on_gpu(dw);
      Arena scratch(Device::Cuda);
      spmm_fprop(s.gpu, w, gpu_y, scratch);
      spmm_wgrad(s.gpu, dy, gpu_dw, scratch);
      expect_same_bits(y, gpu_y, "Y");
      expect_same_bits(dw, gpu_dw, "dW");
    }
  }
}

TEST(CudaSpmm, MatricesWithoutRowsOrColumnsAreFine) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols, n] : {Extents{0, 20, 8}, {9, 0, 8}, {9, 20, 0}}) {
    const Sparse s = random_sparse(rows, cols, 0.5, Values::Any, 0);
    const OwnedTensor w = on_gpu(random_tensor(DType::BF16, {cols, n}, 2));
    const OwnedTensor y = random_tensor(DType::F32, {rows, n}, 3);
    const OwnedTensor dw = random_tensor(DType::F32, {n, cols}, 4);
    const OwnedTensor gpu_y = on_gpu(y);
    const OwnedTensor gpu_dw = on_gpu(dw);
    Arena scratch(Device::Cuda);
    spmm_fprop(s.gpu, w, gpu_y, scratch);
    spmm_wgrad(s.gpu, gpu_y, gpu_dw, scratch);
    expect_same_bits(y, gpu_y, "Y");
    expect_same_bits(dw, gpu_dw, "dW");
  }
}

TEST(CudaTranspose, MovesEveryElementForEveryPairOfTypes) {
  NIBBLE_NEEDS_GPU();
  const std::int64_t shapes[][2] = {{1, 1},    {1, 70},    {70, 1},    {16, 16},    {64, 64},    {65, 130},
                                    {257, 63}, {300, 200}, {2048, 68}, {514, 1028}, {1000, 2048}};
  for (const auto& shape : shapes) {
    for (const DType from_type : kDTypes) {
      for (const DType to_type : kDTypes) {
        SCOPED_TRACE(fmt::format("{}x{} {} {}", shape[0], shape[1], dtype_name(from_type), dtype_name(to_type)));
        const OwnedTensor from = random_tensor(from_type, {shape[0], shape[1]}, 1);
        const OwnedTensor expected(to_type, {shape[1], shape[0]});
        transpose(from, expected);
        const OwnedTensor gpu_from = on_gpu(from);
        const OwnedTensor to(to_type, {shape[1], shape[0]}, Device::Cuda);
        transpose(gpu_from, to);
        expect_same_bits(expected, to, "transposed");
      }
    }
  }
}

}  // namespace
}  // namespace nibble
