// The refusals of a build without CUDA.
#pragma once

#include "nibble/tensor/error.h"

namespace nibble::cuda {

/// Of what a configuration asks for by its device.
[[noreturn]] inline void refuse() {
  user_error(
      "this build has no CUDA backend: choose device = \"cpu\", or build with a CUDA toolkit (-DNIBBLE_CUDA=on)");
}

/// Of an op, by name.
[[noreturn]] inline void refuse(const char* op) {
  user_error(
      "{}: this build has no CUDA backend; keep the tensors on the CPU, or build with a CUDA toolkit "
      "(-DNIBBLE_CUDA=on)",
      op);
}

/// Of what is done to one tensor of the GPU, by name.
[[noreturn]] inline void refuse_on_gpu(const char* what) {
  user_error("{} on a GPU: this build has no CUDA backend; build with a CUDA toolkit (-DNIBBLE_CUDA=on)", what);
}

}  // namespace nibble::cuda
