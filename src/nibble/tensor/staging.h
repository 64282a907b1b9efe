// Tensors on their way between the CPU and a device while the CPU goes on with other work.
#pragma once

#include <memory>

#include "nibble/tensor/tensor.h"

namespace nibble {

namespace cuda {
class PinnedCopy;
}

/// Host memory for one tensor on its way. On a GPU the copy is done in its turn among the device's work and nobody
/// waits for it; on the CPU it is done at once.
class Staging {
 public:
  explicit Staging(Device device);
  ~Staging();

  /// `from`, on the CPU, to `to`, on the device; dtypes and numel are equal. `from` may be written again on return.
  /// Waits where this object's last tensor is still on its way.
  void send(const Tensor& from, const Tensor& to);
  /// Begins to copy `from`, on the device, as the work so far leaves it.
  void begin_read(const Tensor& from);
  /// What the last begin_read copied, on the CPU, when it is there; stays as it is until the next send or begin_read.
  Tensor read();

 private:
  Device device_;
  std::unique_ptr<cuda::PinnedCopy> pinned_;  // of a GPU
  Buffer here_;                               // of the CPU
  Tensor begun_;                              // what is being read, without its memory
};

}  // namespace nibble
