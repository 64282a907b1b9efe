#include <cmath>
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

/// `present` says which entries there are.
template <class Present>
Sparse make_sparse(std::int64_t rows, std::int64_t cols, unsigned seed, const Present& present) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::int32_t> begin{0};
  std::vector<std::int32_t> col;
  std::vector<float> value;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      if (!present(r, c, random)) continue;
      col.push_back(static_cast<std::int32_t>(c));
      value.push_back(normal(random));
    }
    begin.push_back(static_cast<std::int32_t>(col.size()));
  }
  const auto entries = static_cast<std::int64_t>(col.size());
  const std::int64_t capacity = entries + 37;
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

Sparse random_sparse(std::int64_t rows, std::int64_t cols, double density, unsigned seed) {
  return make_sparse(rows, cols, seed, [=](std::int64_t r, std::int64_t, std::mt19937& random) {
    return r % 5 != 3 && std::generate_canonical<double, 32>(random) < density;  // some rows stay empty
  });
}

/// Each element within the rounding of its sum and of the storage type: |got - expected| <= 16 x 2^-24 x magnitude +
/// unit x |expected|, where `magnitude` is the same product of absolute values.
void expect_sums(const Tensor& expected, const Tensor& magnitude, const Tensor& got) {
  const std::vector<double> e = doubles(expected);
  const std::vector<double> m = doubles(magnitude);
  const OwnedTensor on_host = on_cpu(got);
  const std::vector<double> g = doubles(on_host);
  ASSERT_EQ(e.size(), g.size());
  const double unit = got.dtype() == DType::BF16 ? 0x1p-7 : 0x1p-23;
  for (std::size_t i = 0; i < e.size(); ++i) {
    ASSERT_LE(std::fabs(g[i] - e[i]), 0x1p-20 * m[i] + unit * std::fabs(e[i])) << "element " << i;
  }
}

OwnedTensor absolute(const Tensor& x) {
  OwnedTensor y(DType::F32, x.shape());
  convert(x, y);
  for (std::int64_t i = 0; i < x.numel(); ++i) y.view().data<float>()[i] = std::fabs(y.view().data<float>()[i]);
  return y;
}

/// The same matrix with the absolute values, on the CPU.
struct Absolute {
  explicit Absolute(const Sparse& s) : value(absolute(s.value)), m(s.cpu) { m.value = value; }
  OwnedTensor value;
  CsrMatrix m;
};

void expect_both_products(const Sparse& s, std::int64_t n, DType dense_type, DType out_type) {
  Arena arena;
  Arena scratch(Device::Cuda);
  const Absolute magnitudes(s);
  {
    const OwnedTensor w = random_tensor(dense_type, {s.cpu.cols, n}, 2);
    const OwnedTensor y = random_tensor(out_type, {s.cpu.rows, n}, 3);
    const OwnedTensor gpu_w = on_gpu(w);
    const OwnedTensor gpu_y = on_gpu(y);
    const OwnedTensor magnitude = absolute(y);
    spmm_fprop(s.cpu, w, y);
    spmm_fprop(magnitudes.m, absolute(w), magnitude);
    spmm_fprop(s.gpu, gpu_w, gpu_y);
    expect_sums(y, magnitude, gpu_y);
  }
  if (out_type != DType::F32) return;
  const OwnedTensor dy = random_tensor(dense_type, {s.cpu.rows, n}, 4);
  const OwnedTensor dw = random_tensor(DType::F32, {n, s.cpu.cols}, 5);
  const OwnedTensor gpu_dy = on_gpu(dy);
  const OwnedTensor gpu_dw = on_gpu(dw);
  const OwnedTensor magnitude = absolute(dw);
  spmm_wgrad(s.cpu, dy, dw, arena);
  spmm_wgrad(magnitudes.m, absolute(dy), magnitude, arena);
  spmm_wgrad(s.gpu, gpu_dy, gpu_dw, scratch);
  expect_sums(dw, magnitude, gpu_dw);
  EXPECT_EQ(scratch.mark().offset, 0u);
}

constexpr DType kDTypes[] = {DType::F32, DType::BF16};

TEST(CudaSpmm, AgreesWithTheCpuForEveryShapeAndType) {
  NIBBLE_NEEDS_GPU();
  // One stage and several, whole and broken slabs and blocks of rows, aligned rows and others.
  const struct {
    std::int64_t t, k, n;
  } extents[] = {{1, 1, 1},      {7, 5, 3},       {70, 130, 64},   {33, 1030, 65},   {65, 513, 257},
                 {100, 64, 300}, {513, 2048, 96}, {600, 3700, 68}, {4000, 520, 104}, {2, 3, 4096}};
  for (const auto& e : extents) {
    for (const DType dense : kDTypes) {
      for (const DType out : kDTypes) {
        SCOPED_TRACE(fmt::format("T {} K {} N {} {} {}", e.t, e.k, e.n, dtype_name(dense), dtype_name(out)));
        expect_both_products(random_sparse(e.t, e.k, 0.05, 1), e.n, dense, out);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(CudaSpmm, ChannelsOfOutliersAndFullRows) {
  NIBBLE_NEEDS_GPU();
  // A column that every row has, a row that has every column, the first and the last place, and little else.
  const std::int64_t t = 2100;
  const std::int64_t k = 700;
  const Sparse s = make_sparse(t, k, 1, [=](std::int64_t r, std::int64_t c, std::mt19937&) {
    return c == 311 || r == 1000 || (r == 0 && c == 0) || (r == t - 1 && c == k - 1);
  });
  expect_both_products(s, 192, DType::BF16, DType::F32);
}

TEST(CudaSpmm, TwoRunsGiveTheSameBits) {
  NIBBLE_NEEDS_GPU();
  const Sparse s = random_sparse(3000, 900, 0.03, 1);
  const OwnedTensor w = on_gpu(random_tensor(DType::BF16, {900, 256}, 2));
  const OwnedTensor dy = on_gpu(random_tensor(DType::BF16, {3000, 256}, 3));
  Arena scratch(Device::Cuda);
  OwnedTensor first_y;
  OwnedTensor first_dw;
  for (int run = 0; run < 4; ++run) {
    OwnedTensor y(DType::F32, {3000, 256}, Device::Cuda);
    OwnedTensor dw(DType::F32, {256, 900}, Device::Cuda);
    spmm_fprop(s.gpu, w, y);
    spmm_wgrad(s.gpu, dy, dw, scratch);
    if (run == 0) {
      first_y = std::move(y);
      first_dw = std::move(dw);
      continue;
    }
    expect_same_bits(first_y, y, "fprop");
    expect_same_bits(first_dw, dw, "wgrad");
  }
}

TEST(CudaSpmm, AMatrixWithoutEntriesChangesNothing) {
  NIBBLE_NEEDS_GPU();
  const Sparse s = random_sparse(9, 20, 0, 1);
  const OwnedTensor w = on_gpu(random_tensor(DType::F32, {20, 32}, 2));
  const OwnedTensor y = random_tensor(DType::F32, {9, 32}, 3);
  const OwnedTensor dw = random_tensor(DType::F32, {32, 20}, 4);
  const OwnedTensor gpu_y = on_gpu(y);
  const OwnedTensor gpu_dw = on_gpu(dw);
  Arena scratch(Device::Cuda);
  spmm_fprop(s.gpu, w, gpu_y);
  spmm_wgrad(s.gpu, gpu_y, gpu_dw, scratch);
  expect_same_bits(y, gpu_y, "Y");
  expect_same_bits(dw, gpu_dw, "dW");
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
