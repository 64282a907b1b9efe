// What a build without CUDA answers.
#include "nibble/tensor/cuda/memory.h"

namespace nibble::cuda {

namespace {

[[noreturn]] void refuse() {
  user_error(
      "this build has no CUDA backend: choose device = \"cpu\", or build with a CUDA toolkit (-DNIBBLE_CUDA=on)");
}

}  // namespace

int devices() { return 0; }
CudaDevice device() { refuse(); }
void* allocate(std::size_t) { refuse(); }
void free(void*) {}
void fill_zero(const Tensor&) { refuse(); }
void convert(const Tensor&, const Tensor&) { refuse(); }
void copy(const Tensor&, const Tensor&) { refuse(); }
void synchronize() { refuse(); }

}  // namespace nibble::cuda
