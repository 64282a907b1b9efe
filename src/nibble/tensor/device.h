// Devices: which memory there is beside the CPU's, and how tensors move between them.
#pragma once

#include <string>

#include "nibble/tensor/tensor.h"

namespace nibble {

/// GPUs that can be used: 0 without one, without a driver, or in a build without CUDA.
int cuda_devices();

struct CudaDevice {
  std::string name;            ///< "NVIDIA H100 80GB HBM3"
  int compute_capability = 0;  ///< 90 for Hopper
  int multiprocessors = 0;
  std::size_t memory = 0;       ///< bytes
  std::size_t free_memory = 0;  ///< bytes that nobody uses now
  std::size_t l2 = 0;           ///< bytes
};
/// The GPU that this process computes on. Throws UserError, which says why, when there is none.
CudaDevice cuda_device();

/// The same elements on another device or the same one; dtypes and numel are equal. When the copy returns, its CPU side
/// may be read or written again.
void copy(const Tensor& from, const Tensor& to);
/// A copy that owns its memory.
OwnedTensor copy_to(const Tensor& from, Device device);
/// Waits for all work on the device.
void synchronize(Device device);

}  // namespace nibble
