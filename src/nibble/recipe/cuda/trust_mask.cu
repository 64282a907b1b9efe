// The trust mask. Bound by memory: a thread takes one byte of the mask, so eight elements, in accesses of 16 bytes;
// where all eight are kept, as most are, the gradient is not touched. Four bytes of the mask are read before the first
// is used.
#include "nibble/quant/cuda/hadamard.h"
#include "nibble/recipe/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 4;

/// Rows of a multiple of eight elements: element i is bit i % 8 of byte i / 8 over the whole matrix.
template <class T>
__global__ void __launch_bounds__(kThreads) mask_kernel(T* gradient, const std::uint8_t* mask, std::int64_t bytes) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; first < bytes;
       first += stride * kAhead) {
    unsigned bits[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const std::int64_t i = first + k * stride;
      bits[k] = i < bytes ? mask[i] : 0xFFu;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (bits[k] == 0xFFu) continue;
      T* at = gradient + (first + k * stride) * 8;
      Pack<T, 8> g = load_pack<8>(at);
#pragma unroll
      for (int l = 0; l < 8; ++l) g.v[l] = (bits[k] >> l & 1u) != 0 ? g.v[l] : T{};
      store_pack(at, g);
    }
  }
}

/// Rows of any length, one element a thread.
template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_rows_kernel(T* gradient, const std::uint8_t* mask, std::int64_t rows, std::int64_t cols) {
  const std::int64_t stride = (cols + 7) / 8;
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    for (std::int64_t c = threadIdx.x; c < cols; c += kThreads) {
      if ((mask[r * stride + c / 8] >> (c % 8) & 1) == 0) gradient[r * cols + c] = T{};
    }
  }
}

}  // namespace

void apply_trust_mask(const Tensor& gradient, const Tensor& mask) {
  const std::int64_t cols = gradient.cols();
  require(mask.rows() == gradient.rows() && mask.cols() == (cols + 7) / 8, "apply_trust_mask: mask {} for {}",
          to_string(mask), to_string(gradient));
  if (gradient.numel() == 0) return;
  const auto* bits = device_data<std::uint8_t>(mask, "apply_trust_mask");
  dispatch_float(gradient.dtype(), [&]<class T>(T*) {
    T* g = device_data<T>(gradient, "apply_trust_mask");
    if (cols % 8 == 0 && packs_fit(g)) {
      const std::int64_t bytes = mask.numel();
      mask_kernel<<<grid_for((bytes + kAhead - 1) / kAhead, kThreads), kThreads, 0, stream()>>>(g, bits, bytes);
    } else {
      mask_rows_kernel<<<grid_for(gradient.rows() * kThreads, kThreads), kThreads, 0, stream()>>>(
          g, bits, gradient.rows(), cols);
    }
  });
  launched("apply_trust_mask");
}

void masked_hadamard_inverse(const Tensor& gradient, const Tensor& mask, const Hadamard& transform,
                             const RandomStream& stream, const Tensor& out) {
  quant_cuda::masked_hadamard_inverse(gradient, mask, transform, stream, out);
}

}  // namespace nibble::cuda
