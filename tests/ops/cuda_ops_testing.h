// What the tests of the GPU's ops share.
#pragma once

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

}  // namespace nibble::testing_support
