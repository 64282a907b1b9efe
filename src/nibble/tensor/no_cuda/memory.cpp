// What a build without CUDA answers.
#include "nibble/tensor/cuda/memory.h"

#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

int devices() { return 0; }
CudaDevice device() { refuse(); }
void* allocate(std::size_t) { refuse(); }
void free(void*) {}
void fill_zero(const Tensor&) { refuse(); }
void convert(const Tensor&, const Tensor&) { refuse(); }
void copy(const Tensor&, const Tensor&) { refuse(); }
void synchronize() { refuse(); }

}  // namespace nibble::cuda
