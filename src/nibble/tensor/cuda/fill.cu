// Filling and converting, bound by memory. A pack is four elements: 16 bytes of F32, 8 of BF16.
#include "nibble/tensor/cuda/elementwise.cuh"
#include "nibble/tensor/cuda/memory.h"

namespace nibble::cuda {

namespace {

template <class From, class To>
struct Convert {
  static constexpr int kInFlight = 4;
  template <int kWidth>
  using Values = Pack<From, kWidth>;

  const From* from;
  To* to;

  template <int kWidth>
  __device__ void load(std::int64_t i, Pack<From, kWidth>& values) const {
    values = load_pack<kWidth>(from + i);
  }
  template <int kWidth>
  __device__ void store(std::int64_t i, const Pack<From, kWidth>& values) const {
    Pack<To, kWidth> converted;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) converted.v[k] = from_float<To>(to_float(values.v[k]));
    store_pack(to + i, converted);
  }
};

template <class From, class To>
void convert_typed(const Tensor& from, const Tensor& to) {
  const Convert<From, To> op{device_data<From>(from, "convert"), device_data<To>(to, "convert")};
  elementwise<4>(op, from.numel(), packs_fit(op.from, op.to), "convert");
}

}  // namespace

bool has_kernels() {
  cudaFuncAttributes attributes{};
  const bool found = cudaFuncGetAttributes(&attributes, elementwise_kernel<4, Convert<float, bf16>>) == cudaSuccess;
  cudaGetLastError();  // a kernel that is not there leaves nothing else behind
  return found;
}

void fill_zero(const Tensor& tensor) {
  if (tensor.bytes() == 0) return;
  check(cudaMemsetAsync(tensor.raw(), 0, tensor.bytes(), stream()), "filling with zeros");
}

void convert(const Tensor& from, const Tensor& to) {
  if (from.dtype() == to.dtype()) return cuda::copy(from, to);
  if (from.dtype() == DType::F32) {
    convert_typed<float, bf16>(from, to);
  } else {
    convert_typed<bf16, float>(from, to);
  }
}

}  // namespace nibble::cuda
