// What the tests of the GPU's ops share.
#pragma once

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"

namespace nibble::testing_support {

/// Error that an op computed in F32 and rounded to `dtype` may have, as a share of the largest value.
inline double op_tolerance(DType dtype) { return dtype == DType::BF16 ? 1e-2 : 1e-5; }

/// A copy on the GPU that begins one element behind a multiple of 16 bytes, where no wide access is possible.
class Misaligned {
 public:
  explicit Misaligned(const Tensor& x) : memory_(x.dtype(), {x.numel() + 1}, Device::Cuda) {
    auto* data = static_cast<std::byte*>(memory_.view().raw()) + dtype_size(x.dtype());
    view_ = Tensor(data, x.dtype(), x.shape(), Device::Cuda);
    copy(x, view_);
  }
  operator const Tensor&() const { return view_; }

 private:
  OwnedTensor memory_;
  Tensor view_;
};

inline OwnedTensor zeros_on_gpu(DType dtype, std::initializer_list<std::int64_t> shape) {
  return OwnedTensor(dtype, shape, Device::Cuda);
}

constexpr DType kFloatTypes[] = {DType::F32, DType::BF16};

/// Magnitudes of a matrix on the GPU, from zero on, with factors or none, and the memory of them.
class Magnitudes {
 public:
  Magnitudes(std::int64_t rows, std::int64_t cols, bool folds, std::uint64_t seed)
      : col_fold_(on_gpu(random_tensor(DType::F32, {cols}, seed))),
        row_fold_(on_gpu(random_tensor(DType::F32, {rows}, seed + 1))),
        of_rows_(DType::I32, {rows}, Device::Cuda),
        of_cols_(DType::I32, {cols}, Device::Cuda) {
    of = {folds ? col_fold_.view() : Tensor(), folds ? row_fold_.view() : Tensor(), of_rows_, of_cols_};
    fill_zero(of_rows_);
    fill_zero(of_cols_);
  }
  PairMagnitudes of;

 private:
  OwnedTensor col_fold_, row_fold_, of_rows_, of_cols_;
};

/// `raised` are those of x.
inline void expect_magnitudes_of(const Tensor& x, const PairMagnitudes& raised) {
  const OwnedTensor of_rows = zeros_on_gpu(DType::I32, {x.rows()});
  const OwnedTensor of_cols = zeros_on_gpu(DType::I32, {x.cols()});
  fill_zero(of_rows);
  fill_zero(of_cols);
  raise_magnitudes(x, {raised.col_fold, raised.row_fold, of_rows, of_cols});
  expect_same_bits(of_rows, raised.of_rows, "magnitudes of rows");
  expect_same_bits(of_cols, raised.of_cols, "magnitudes of columns");
}

}  // namespace nibble::testing_support
