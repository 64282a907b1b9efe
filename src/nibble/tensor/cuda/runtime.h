// What the CUDA definitions of all rooms share: one stream, checked calls, launches. Only files in cuda/ folders
// include it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "nibble/tensor/tensor.h"

namespace nibble::cuda {

/// Throws InternalError when a call failed; `what` names it.
void check(cudaError_t result, const char* what);
/// After a launch: throws when the launch itself failed.
inline void launched(const char* kernel) { check(cudaGetLastError(), kernel); }

/// The stream of all device work of this process: work is done in the order of the calls.
cudaStream_t stream();
int multiprocessors();

/// Blocks of `threads` for n items, at most `waves` times as many as fit on the GPU at 2048 threads a multiprocessor;
/// the kernel strides over the rest.
inline unsigned grid_for(std::int64_t n, int threads, int waves = 4) {
  const std::int64_t wanted = (n + threads - 1) / threads;
  const std::int64_t most = static_cast<std::int64_t>(multiprocessors()) * (2048 / threads) * waves;
  return static_cast<unsigned>(std::clamp<std::int64_t>(wanted, 1, most));
}

/// Copies between host and device memory on the stream; the host side is complete on return.
void to_host(void* host, const void* device, std::size_t bytes);
void to_device(void* device, const void* host, std::size_t bytes);
/// One value from device memory; waits for the stream.
template <class T>
T fetch(const T* device) {
  T value;
  to_host(&value, device, sizeof(T));
  return value;
}

/// Device memory of a tensor; throws InternalError for a tensor of the CPU, `what` names the op.
template <class T>
T* device_data(const Tensor& tensor, const char* what) {
  require(tensor.device() == Device::Cuda, "{}: {} should be on the GPU", what, to_string(tensor));
  return tensor.data<T>();
}

}  // namespace nibble::cuda
