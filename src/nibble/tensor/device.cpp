#include "nibble/tensor/device.h"

#include <cstring>

#include "nibble/tensor/cuda/memory.h"

namespace nibble {

int cuda_devices() { return cuda::devices(); }

CudaDevice cuda_device() { return cuda::device(); }

void copy(const Tensor& from, const Tensor& to) {
  require(from.dtype() == to.dtype() && from.numel() == to.numel(), "copy: {} to {}", to_string(from), to_string(to));
  if (from.device() == Device::Cpu && to.device() == Device::Cpu) {
    if (from.bytes() > 0) std::memmove(to.raw(), from.raw(), from.bytes());
    return;
  }
  cuda::copy(from, to);
}

OwnedTensor copy_to(const Tensor& from, Device device) {
  OwnedTensor to(from.dtype(), from.shape(), device);
  copy(from, to);
  return to;
}

void synchronize(Device device) {
  if (device == Device::Cuda) cuda::synchronize();
}

}  // namespace nibble
