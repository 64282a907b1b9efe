// What a build without CUDA answers.
#include "nibble/tensor/cuda/staging.h"

#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

PinnedCopy::~PinnedCopy() = default;
void PinnedCopy::to_device(const void*, void*, std::size_t) { refuse(); }
void PinnedCopy::begin_to_host(const void*, std::size_t) { refuse(); }
void* PinnedCopy::wait() { refuse(); }

}  // namespace nibble::cuda
